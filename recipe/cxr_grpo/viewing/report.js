// The films of the run's page, into their figures.
const { pictures, samples } = embedded("data");
for (const figure of document.querySelectorAll("figure[data-sample]")) {
  const { film: place, boxes } = samples[figure.dataset.sample];
  figure.prepend(film(pictures[place], boxes, `Film of ${figure.dataset.sample}`));
}
