// The chosen question of the viewer with its answers; page.js has the list and the filters.

// ---- The chosen question

const stepName = (question) => (question.step === null ? null : `step ${question.step}`);

function flags(question) {
  const names = { zero: "no spread", scorer: "scorer failed", model: "answer failed" };
  return Object.keys(names).filter((flag) => question.has[flag]).map((flag) => element("span", { class: "flag" }, names[flag]));
}

function boxesOf(question, answer) {
  if (!state.boxes) return [];
  const hits = hitsOf(answer);
  const found = new Set(hits.map(([, place]) => place));
  const right = new Set(hits.map(([place]) => place));
  const overlap = new Map(answer.pairs.map(([place, , iou]) => [place, iou.toFixed(2)]));
  const isTrue = (quad, place) => ({ quad, kind: found.has(place) ? "hit true" : "missed true", text: found.has(place) ? "" : "missed" });
  const said = (quad, place) => ({ quad, below: true, kind: right.has(place) ? "hit" : "false", text: right.has(place) ? overlap.get(place) : `false ${overlap.get(place) ?? ""}` });
  return [...question.boxes.map(isTrue), ...answer.boxes.map(said)];
}

function describe(question, answer) {
  const hits = hitsOf(answer).length;
  return `Film of ${question.id}: ${hits} hits, ${question.boxes.length - hits} missed, ${answer.boxes.length - hits} false boxes`;
}

function drawQuestion() {
  const question = state.chosen;
  if (!question) {
    for (const id of ["head", "stepper", "others"]) at(id).replaceChildren();
    at("answers").replaceChildren(element("p", { class: "empty" }, "No question passes these filters."));
    return;
  }
  const picture = FILMS[question.film];
  const facts = { sample: question.id, patient: question.patient, task: question.task, films: question.films, labels: question.labels.join(", "), source: `${question.source} · ${question.part}`, step: question.step, film: picture ? picture.name : "not in this page" };
  const known = Object.entries(facts).filter(([, value]) => value !== null && value !== "");
  at("head").replaceChildren(
    element("h2", {}, question.question || "(no question)"),
    element("dl", { class: "facts" }, known.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value))))),
    ...flags(question),
  );
  if (question.lost) at("head").append(element("p", { class: "warning" }, `${question.lost} rollouts of this group have no reward: their scoring failed.`));
  if (question.answers[0].computed) at("head").append(element("p", { class: "how" }, "Advantages are computed here: (reward − mean of the group) / its standard deviation."));
  drawStepper(question);
  drawOthers(question);
  const reference = question.task === "report" ? [element("section", { class: "reference" }, film(picture, [], `Film of ${question.id}`), element("h3", {}, "Reference"), element("p", { class: "text" }, question.reference))] : [];
  const cards = question.answers.map((answer, place) => card(question, answer, place));
  at("answers").replaceChildren(...reference, element("div", { class: question.answers.length > 1 ? "cards" : "cards single" }, cards));
  at("answers").className = question.task === "report" ? "beside" : "";
}

// The slider stays the same element while it moves, or a drag would end.
function drawStepper(question) {
  const of = steps.get(keyOf(question));
  const slider = at("stepper").querySelector("input");
  if (of.length < 2) {
    at("stepper").replaceChildren();
  } else if (!slider || slider.dataset.key !== keyOf(question)) {
    const input = element("input", { type: "range", id: "steps", min: 0, max: of.length - 1, input: (event) => choose(of[event.target.value]) });
    input.dataset.key = keyOf(question);
    at("stepper").replaceChildren(element("label", { for: "steps" }, "The same film over the steps"), input, element("output", { for: "steps" }));
  }
  if (of.length < 2) return;
  const place = of.indexOf(question);
  at("steps").value = place;
  at("steps").setAttribute("aria-valuetext", stepName(question));
  const means = of.map((other) => number(scoreOf(other, chosenMetric()), 2));
  at("stepper").querySelector("output").textContent = `step ${question.step} (${place + 1} of ${of.length}); ${means[0]} in the first, ${means[place]} here, ${means.at(-1)} in the last`;
}

function drawOthers(question) {
  const keys = [...samples.get(sampleOf(question))].filter((key) => key !== keyOf(question));
  const nearest = (key) => steps.get(key).find((other) => other.step === question.step) ?? steps.get(key).at(-1);
  const buttons = keys.map(nearest).map((other) => {
    const name = [other.source, other.part, stepName(other), `${other.films} film`].filter(Boolean).join(" · ");
    return element("button", { type: "button", click: () => choose(other) }, `${name}: ${number(scoreOf(other, chosenMetric()), 2)}`);
  });
  at("others").replaceChildren(...(buttons.length ? [element("span", {}, "The same question:"), ...buttons] : []));
}

function card(question, answer, place) {
  const several = question.answers.length > 1;
  const values = valuesOf(question, answer);
  const name = several ? `Rollout ${place + 1}` : "Answer";
  const made = element("article", { class: "card", "aria-label": name }, element("h3", {}, name, element("b", {}, number(answer.score))));
  if (answer.advantage !== null) {
    const size = answer.advantage.toFixed(2).replace("-0.00", "0.00");
    made.append(element("p", { class: "advantage" }, `advantage ${size.startsWith("-") ? "−" : "+"}${size.replace("-", "")} `, element("small", {}, answer.computed ? "(computed)" : "(dumped)")));
  }
  if (answer.model_failed) made.append(element("span", { class: "flag" }, "answer failed"));
  if (question.task === "grounding") made.append(film(FILMS[question.film], boxesOf(question, answer), describe(question, answer)));
  if (answer.thinking) made.append(element("details", { class: "thinking", open: state.thinking ? "" : null }, element("summary", {}, `Thinking, ${answer.thinking.length.toLocaleString("en")} characters`), element("p", { class: "text" }, answer.thinking)));
  made.append(element("p", { class: "text answer" }, answer.text ? marked(answer) : "(no answer)"), ...entities(answer), ...observations(answer));
  if (answer.explanation) made.append(element("details", { open: several ? null : "" }, element("summary", {}, "The judge's explanation"), element("p", { class: "text" }, answer.explanation)));
  const lines = values.map(([metric, value]) => element("tr", {}, element("th", { scope: "row" }, metric), element("td", {}, value === null ? "scorer failed" : number(value))));
  if (question.task === "grounding") lines.push(element("tr", {}, element("th", { scope: "row" }, "IoU of pairs"), element("td", {}, answer.pairs.map(([, , iou]) => iou.toFixed(2)).join(", ") || "none")));
  made.append(element("table", {}, element("caption", {}, "Components"), element("tbody", {}, lines)));
  return made;
}

// ---- What scorers found in reports

const entityKey = ([tokens, label]) => JSON.stringify([String(tokens).toLowerCase(), label]);

// The answer with its RadGraph entities marked, in their order, by whether the reference has them.
function marked(answer) {
  const found = answer.entities?.prediction ?? [];
  const known = new Set((answer.entities?.reference ?? []).map(entityKey));
  const lower = answer.text.toLowerCase();
  const parts = [];
  let end = 0;
  for (const entity of found) {
    const [tokens, label] = entity.map(String);
    const start = lower.indexOf(tokens.toLowerCase(), end);
    if (!tokens || start < 0 || lower.length !== answer.text.length) continue;
    const kind = known.has(entityKey(entity)) ? "matched" : "unmatched";
    parts.push(answer.text.slice(end, start), element("mark", { class: kind, title: `${label}: ${kind}` }, answer.text.slice(start, start + tokens.length)));
    end = start + tokens.length;
  }
  return [...parts, answer.text.slice(end)];
}

const chips = (title, names, kind) => (names.length ? [element("p", { class: "chips" }, element("span", {}, title), names.map((name) => element("span", { class: `chip ${kind}` }, name)))] : []);

function entities(answer) {
  if (!answer.entities) return [];
  const [ours, theirs] = [answer.entities.prediction, answer.entities.reference];
  const [said, wanted] = [ours, theirs].map((side) => new Set(side.map(entityKey)));
  const name = ([tokens, label]) => `${tokens} (${label})`;
  const split = [
    ["RadGraph, in both", ours.filter((entity) => wanted.has(entityKey(entity))), "matched"],
    ["only in the answer", ours.filter((entity) => !wanted.has(entityKey(entity))), "unmatched"],
    ["only in the reference", theirs.filter((entity) => !said.has(entityKey(entity))), "absent"],
  ];
  return split.flatMap(([title, side, kind]) => chips(title, side.map(name), kind));
}

function observations(answer) {
  const counted = answer.counts?.chexbert;
  if (!counted) return [];
  const which = (test) => DATA.observations.filter((_, place) => test(Boolean(counted.prediction[place]), Boolean(counted.reference[place])));
  return [
    ...chips("CheXbert, in both", which((ours, theirs) => ours && theirs), "matched"),
    ...chips("only in the answer", which((ours, theirs) => ours && !theirs), "unmatched"),
    ...chips("only in the reference", which((ours, theirs) => !ours && theirs), "absent"),
  ];
}
