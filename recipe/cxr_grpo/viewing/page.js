// The viewer: a list of questions of which only the visible rows exist, and the chosen question with its answers.

const DATA = embedded("data");
const FILMS = embedded("films-data");
const ROW = 84; // pixels, as in page.css
const SPARE = 4; // rows beyond the visible ones, so that fast scrolling shows none empty

const at = (id) => document.getElementById(id);
const list = at("list");
const rows = new Map(); // place in the list -> its element
const state = { shown: [], chosen: null, place: 0, thinking: false, boxes: true };

// ---- Facts about questions and answers

const keyOf = (question) => JSON.stringify([question.source, question.part, question.task, question.films, question.id]);
const sampleOf = (question) => JSON.stringify([question.task, question.id]);
const hitsOf = (answer) => answer.pairs.filter(([, , iou]) => iou >= DATA.hit);

function valueOf(answer, metric) {
  return (metric === "score" ? answer.score : answer.values[metric]) ?? null;
}

// The mean over the answers of a question, null without any.
function scoreOf(question, metric) {
  const values = question.answers.map((answer) => valueOf(answer, metric)).filter((value) => value !== null);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

function number(value, digits = 3) {
  if (value === null) return "–";
  return Number.isInteger(value) ? String(value) : value.toFixed(digits);
}

// A value is missing because its scorer failed if other answers to the task have it; else it does not apply.
const applies = new Set();
const scorerOf = (question, name) => JSON.stringify([question.source, question.task, name]);
for (const question of DATA.questions) {
  for (const [name, value] of question.answers.flatMap((answer) => Object.entries(answer.values))) {
    if (value !== null) applies.add(scorerOf(question, name));
  }
}
const valuesOf = (question, answer) => Object.entries(answer.values).filter(([name]) => applies.has(scorerOf(question, name)));

// As verl's estimator grpo has them, which are not dumped: the reward less the group's mean, by its standard deviation.
function addAdvantages({ part, answers }) {
  const scores = answers.map((answer) => answer.score);
  if (part === "validation" || scores.length < 2 || scores.includes(null)) return;
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
  const spread = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / (scores.length - 1)) + 1e-6;
  for (const answer of answers) if (answer.advantage === null) Object.assign(answer, { advantage: (answer.score - mean) / spread, computed: true });
}

const steps = new Map(); // key -> the same question over the steps
const samples = new Map(); // sample -> keys: the same question of other sources, and on other films
for (const question of DATA.questions) {
  const key = keyOf(question);
  steps.set(key, [...(steps.get(key) ?? []), question]);
  samples.set(sampleOf(question), (samples.get(sampleOf(question)) ?? new Set()).add(key));
  const { answers, boxes, task, lost } = question;
  addAdvantages(question);
  question.has = {
    zero: answers.length > 1 && answers.every((answer) => answer.score === answers[0].score),
    scorer: lost > 0 || answers.some((answer) => valuesOf(question, answer).some(([, value]) => value === null)),
    model: answers.some((answer) => answer.model_failed),
    missed: task === "grounding" && answers.some((answer) => hitsOf(answer).length < boxes.length),
    false: answers.some((answer) => hitsOf(answer).length < answer.boxes.length),
  };
}
for (const of of steps.values()) of.sort((a, b) => a.step - b.step);
const latestOf = (question) => steps.get(keyOf(question)).at(-1);

function textOf(question) {
  if (!question.text) {
    const { id, patient, question: asked, reference, labels, answers } = question;
    const texts = answers.flatMap((answer) => [answer.text, answer.thinking ?? "", answer.explanation ?? ""]);
    question.text = [id, patient, asked, reference, ...labels, ...texts].join("\n").toLowerCase();
  }
  return question.text;
}

// ---- The filters

const LATEST = "latest";
const FLAGS = ["zero", "scorer", "model", "missed", "false"];

function offer(id, values, ...first) {
  const options = first.map(([value, text]) => element("option", { value }, text));
  at(id).append(...options, ...[...new Set(values)].map((value) => element("option", { value: `=${value}` }, String(value))));
}

function offerAll() {
  const all = DATA.questions;
  const any = ["", "any"];
  offer("from", all.map((question) => `${question.source} · ${question.part}`).sort(), any);
  const known = all.map((question) => question.step).filter((step) => step !== null);
  offer("step", known.sort((a, b) => a - b), [LATEST, "latest of each film"], ["", "any"]);
  for (const id of ["task", "films"]) offer(id, all.map((question) => question[id]).sort(), any);
  offer("label", all.flatMap((question) => question.labels).sort(), any);
  const metrics = all.flatMap((question) => question.answers.flatMap((answer) => Object.keys(answer.values)));
  offer("metric", ["score", ...new Set(metrics)]);
}

const chosenMetric = () => at("metric").value.slice(1);

function passes() {
  const words = at("search").value.trim().toLowerCase();
  const wanted = Object.fromEntries(["from", "step", "task", "films", "label"].map((id) => [id, at(id).value]));
  const [low, high] = [at("low").value, at("high").value];
  const flags = FLAGS.filter((flag) => at(`only-${flag}`).checked);
  const metric = chosenMetric();
  const is = (id, value) => !wanted[id] || wanted[id] === `=${value}`;
  return (question) => {
    if (wanted.step === LATEST ? latestOf(question) !== question : !is("step", question.step)) return false;
    if (!is("from", `${question.source} · ${question.part}`) || !is("task", question.task) || !is("films", question.films)) return false;
    if (wanted.label && !question.labels.some((label) => is("label", label))) return false;
    if (!flags.every((flag) => question.has[flag])) return false;
    const score = low || high ? scoreOf(question, metric) : 0;
    if (score === null || (low && score < Number(low)) || (high && score > Number(high))) return false;
    return !words || textOf(question).includes(words);
  };
}

function ordered(found) {
  const [order, metric] = [at("order").value, chosenMetric()];
  if (order === "given") return found;
  const sign = (order === "worst") === DATA.lower.includes(metric) ? -1 : 1;
  const scores = new Map(found.map((question) => [question, scoreOf(question, metric)]));
  const rank = (question) => (scores.get(question) === null ? Infinity : sign * scores.get(question));
  return found.sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
}

function refresh() {
  state.shown = ordered(DATA.questions.filter(passes()));
  at("count").textContent = `${state.shown.length.toLocaleString("en")} of ${DATA.questions.length.toLocaleString("en")} questions`;
  at("rows").style.height = `${state.shown.length * ROW}px`;
  list.scrollTop = 0;
  for (const row of rows.values()) row.remove();
  rows.clear();
  choose(state.shown.includes(state.chosen) ? state.chosen : (state.shown[0] ?? null));
}

// ---- The list

function row(place) {
  const question = state.shown[place];
  const metric = chosenMetric();
  const ranked = question.answers.toSorted((a, b) => (a.score ?? Infinity) - (b.score ?? Infinity));
  const picture = FILMS[question.film];
  const small = film(picture && { ...picture, data: picture.small }, boxesOf(question, ranked[0]).map((box) => ({ ...box, text: "" })), "");
  small.setAttribute("aria-hidden", "true");
  const where = [stepName(question), question.films === "own" ? null : `${question.films} film`, question.task, question.part];
  const made = element(
    "div",
    { class: "row", role: "option", id: `row-${place}`, "aria-posinset": place + 1, "aria-setsize": state.shown.length, click: () => choose(question, true) },
    element("div", { class: "thumbnail" }, small),
    element("div", { class: "lines" }, element("div", { class: "asked" }, question.question), element("div", { class: "said" }, ranked[0].text || "(no answer)"), element("div", { class: "where" }, where.filter(Boolean).join(" · "), ...flags(question))),
    element("div", { class: "score" }, number(scoreOf(question, metric), 2), question.answers.length > 1 ? element("small", {}, `mean of ${question.answers.length}`) : null),
  );
  made.style.transform = `translateY(${place * ROW}px)`;
  made.setAttribute("aria-selected", question === state.chosen);
  return made;
}

function drawList() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const end = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  for (const [place, drawn] of rows) {
    if (place < first || place >= end) {
      drawn.remove();
      rows.delete(place);
    }
  }
  for (let place = first; place < end; place += 1) {
    if (!rows.has(place)) {
      rows.set(place, row(place));
      at("rows").append(rows.get(place));
    }
  }
}

function choose(question, clicked = false) {
  state.chosen = question;
  const place = state.shown.indexOf(question);
  if (place >= 0) {
    state.place = place;
    const top = place * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  }
  drawList();
  for (const [at, drawn] of rows) drawn.setAttribute("aria-selected", at === place);
  if (place >= 0) list.setAttribute("aria-activedescendant", `row-${place}`);
  else list.removeAttribute("aria-activedescendant");
  onNextFrame(drawQuestion);
  if (clicked && matchMedia("(max-width: 50rem)").matches) at("detail").scrollIntoView();
}

const waiting = new Set();
function onNextFrame(draw) {
  if (waiting.has(draw)) return;
  waiting.add(draw);
  requestAnimationFrame(() => {
    waiting.delete(draw);
    draw();
  });
}

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

// ---- Keys

function go(place) {
  if (state.shown.length) choose(state.shown[Math.min(Math.max(place, 0), state.shown.length - 1)]);
}

function step(by) {
  if (!state.chosen) return;
  const of = steps.get(keyOf(state.chosen));
  choose(of[Math.min(Math.max(of.indexOf(state.chosen) + by, 0), of.length - 1)]);
}

const KEYS = {
  j: () => go(state.place + 1), ArrowDown: () => go(state.place + 1),
  k: () => go(state.place - 1), ArrowUp: () => go(state.place - 1),
  Home: () => go(0), End: () => go(state.shown.length - 1),
  ArrowLeft: () => step(-1), ArrowRight: () => step(1),
  "/": () => at("search").focus(),
  "?": () => at("help").showModal(),
  t: () => { state.thinking = !state.thinking; drawQuestion(); },
  b: () => { state.boxes = !state.boxes; rows.forEach((drawn) => drawn.remove()); rows.clear(); choose(state.chosen); },
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), select");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || at("help").open || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

at("show-help").addEventListener("click", () => at("help").showModal());
at("close-help").addEventListener("click", () => at("help").close());
at("reset").addEventListener("click", () => {
  for (const input of document.querySelectorAll("aside input")) input.type === "checkbox" ? (input.checked = false) : (input.value = "");
  for (const select of document.querySelectorAll("aside select")) select.selectedIndex = 0;
  refresh();
});
document.querySelector("aside").addEventListener("input", () => onNextFrame(refresh));
list.addEventListener("scroll", () => onNextFrame(drawList), { passive: true });
addEventListener("resize", () => onNextFrame(drawList));

at("notes").textContent = `${DATA.notes}.`;
if (matchMedia("(min-width: 50rem)").matches && matchMedia("(min-height: 50rem)").matches) at("filters").open = true;
offerAll();
refresh();
