// The viewer: a list of questions of which only the visible rows exist, and filters; answers.js draws the chosen question.

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
