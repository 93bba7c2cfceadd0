// The viewer of dialogues: a list to filter and sort, and the chosen dialogue side by side with another run's dialogue of
// the same profile. It shows the rows of crslib/web/viewer.py, sends no request and computes no figure.

import { element } from "./element.js";

const PAGE_ROWS = 10; // what PageUp and PageDown move by

const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");
const nats = (value) => value.toFixed(2).replace("-", "−");
const figure = (value) => (value === undefined ? "–" : String(Number(value.toPrecision(3))).replace("-", "−"));

/** The shade of a token, 0 (sure) to 4: a step for every factor of four in its probability. */
const doubt = (logprob) => Math.min(4, Math.floor(-logprob / Math.log(4)));

/** A drop-down list of [value, text] below a label; `change` gets the chosen value. */
function choice(label, options, chosen, change) {
  const select = element(
    "select",
    { onchange: (event) => change(event.target.value) },
    ...options.map(([value, text]) => element("option", { value, selected: value === chosen }, text)),
  );
  return element("label", {}, label, select);
}

function tick(label, ticked, change) {
  const box = element("input", { type: "checkbox", checked: ticked, onchange: (event) => change(event.target.checked) });
  return element("label", { class: "tick" }, box, label);
}

/** Details that are drawn when they are unfolded for the first time. */
function folded(attributes, title, draw) {
  const details = element("details", attributes, element("summary", {}, title));
  details.addEventListener("toggle", () => details.childElementCount < 2 && details.append(...draw()));
  return details;
}

function table(heads, rows) {
  const row = ([first, ...others], marked) =>
    element("tr", { class: marked ? "named" : false }, element("th", { scope: "row" }, first), ...others.map((cell) => element("td", {}, cell)));
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map(([cells, marked]) => row(cells, marked))),
  );
}

/** Shows `data`: {runs, metrics, dialogues} as `crslib.web.viewer.rows` gives them. */
function mount(root, { runs, metrics, dialogues }) {
  dialogues.sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }) || a.run - b.run);
  const titles = new Map(metrics.map(({ name, title }) => [name, title]));
  const wanted = { run: runs.length > 1 ? "0" : "", stop: "", metric: "", descending: true, from: -Infinity, to: Infinity };
  const unfolded = { notes: false, confidence: dialogues.some((dialogue) => dialogue.read) };
  let second = runs.length > 1 ? 1 : -1; // the run that is shown at the right; -1: none
  let listed = [];
  let chosen = null;

  const count = element("span", { class: "count", role: "status" });
  const list = element("ul", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Dialogues", onkeydown: onKey });
  const shown = element("div", { class: "shown" });

  // ── which dialogues ────────────────────────────────────────────────────────────────────────────────────────────

  const value = (dialogue) => dialogue.scores[wanted.metric];

  function filter() {
    const { run, stop, metric, descending, from, to } = wanted;
    const bounded = metric && (from > -Infinity || to < Infinity);
    listed = dialogues.filter(
      (dialogue) =>
        (run === "" || dialogue.run === Number(run)) &&
        (stop === "" || dialogue.stop === stop) &&
        (!bounded || (value(dialogue) >= from && value(dialogue) <= to)),
    );
    if (metric) {
      const last = descending ? -Infinity : Infinity; // dialogues without a value come last in either order
      listed.sort((a, b) => (descending ? 1 : -1) * ((value(b) ?? last) - (value(a) ?? last) || 0));
    }
    count.textContent = `${listed.length} of ${dialogues.length} dialogues`;
    list.replaceChildren(...listed.map(option));
    choose(0);
  }

  function option(dialogue, number) {
    const where = wanted.run === "" && runs.length > 1 ? `${runs[dialogue.run]} · ` : "";
    return element(
      "li",
      { role: "option", id: `crs-dialogue-${number}`, "aria-selected": "false", onclick: () => choose(number) },
      element("span", { class: "id" }, dialogue.id),
      element("span", { class: "soft" }, `${where}${dialogue.turns.length} turns · ${dialogue.ending}${dialogue.read ? " · replayed" : ""}`),
      element("span", { class: "value" }, wanted.metric ? figure(value(dialogue)) : ""),
    );
  }

  function choose(number) {
    chosen = listed[Math.max(0, Math.min(listed.length - 1, number))] ?? null;
    show();
  }

  function onKey(event) {
    const at = listed.indexOf(chosen);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + PAGE_ROWS, PageUp: at - PAGE_ROWS, Home: 0, End: listed.length };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(moves[event.key]);
  }

  // ── the dialogue ───────────────────────────────────────────────────────────────────────────────────────────────

  function show() {
    const at = listed.indexOf(chosen);
    list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    const row = list.children[at];
    if (!row) {
      list.removeAttribute("aria-activedescendant");
      shown.replaceChildren(element("p", {}, "No dialogue matches these filters."));
      return;
    }
    row.setAttribute("aria-selected", "true");
    row.scrollIntoView({ block: "nearest" });
    list.setAttribute("aria-activedescendant", row.id);
    const others = runs.map((name, run) => [String(run), name]).filter(([run]) => Number(run) !== chosen.run);
    const other = second < 0 ? -1 : second === chosen.run ? Number(others[0][0]) : second;
    const sides = [chosen];
    const match =
      dialogues.find((one) => one.run === other && one.id === chosen.id) ??
      dialogues.find((one) => one.run === other && one.profile === chosen.profile);
    if (match) sides.push(match);
    const read = sides.some((dialogue) => dialogue.read);
    shown.replaceChildren(
      element(
        "div",
        { class: "tools", role: "group", "aria-label": "What is shown" },
        ...(others.length ? [choice("Compare with", [["-1", "nothing"], ...others], String(other), (run) => { second = Number(run); show(); })] : []),
        tick("Unfold private notes", unfolded.notes, (on) => { unfolded.notes = on; show(); }),
        ...(read ? [tick("Shade by confidence", unfolded.confidence, (on) => { unfolded.confidence = on; show(); }), ...(unfolded.confidence ? [legend()] : [])] : []),
      ),
      profile(chosen),
      element("div", { class: `sides of-${sides.length}` }, ...sides.map(side)),
      ...(other >= 0 && !match ? [element("p", {}, `${runs[other]} has no dialogue of this profile.`)] : []),
    );
  }

  const legend = () =>
    element("span", { class: "legend" }, "probability below ", ...[1, 2, 3, 4].map((step) => element("span", { class: `token doubt-${step}` }, percent(4 ** -step))), " for the speaker's own model");

  const profile = ({ summary, attributes, k, labels }) =>
    element(
      "section",
      { class: "profile", "aria-label": "What the user knows" },
      element("p", {}, summary),
      ...(attributes ? [element("p", {}, element("b", {}, "Looking for: "), attributes, ...(k === null ? [] : [element("span", { class: "soft" }, ` (${k} ${labels} of the catalogue fit)`)]))] : []),
    );

  function side(dialogue) {
    const name = `${runs[dialogue.run]}, ${dialogue.id}`;
    const otherProfile = dialogue.summary !== chosen.summary || dialogue.attributes !== chosen.attributes;
    return element(
      "section",
      { "aria-label": name },
      element("h2", {}, name),
      element("p", { class: "soft" }, `The ${dialogue.opener} opens · ${dialogue.turns.length} turns · ${dialogue.ending}`),
      ...(otherProfile ? [profile(dialogue)] : []),
      folded({ class: "targets" }, `Hidden targets (${dialogue.targets.length})`, () => [
        element("p", { class: "soft" }, "Liked later; in an independent simulation neither party knows them. Marked: named in this dialogue."),
        element("ul", {}, ...dialogue.targets.map(([title, named]) => element("li", {}, element("span", { class: named ? "item target" : false }, title)))),
      ]),
      ...(Object.keys(dialogue.scores).length ? [folded({ class: "scores" }, "Scores", () => [scores(dialogue)])] : []),
      element(
        "div",
        { class: "talk", tabindex: "0", role: "group", "aria-label": `${name}: ${dialogue.turns.length} turns` },
        element("ol", {}, ...dialogue.turns.map(turn)),
      ),
    );
  }

  const scores = (dialogue) =>
    table(["Metric", "Value"], metrics.filter(({ name }) => name in dialogue.scores).map(({ name }) => [[titles.get(name), figure(dialogue.scores[name])], name === wanted.metric]));

  function turn({ role, notes, pieces, candidates }) {
    const read = unfolded.confidence && pieces.some(([, , logprob]) => logprob !== null);
    return element(
      "li",
      { class: role },
      element(
        "div",
        { class: "head" },
        element("span", { class: "who" }, role === "user" ? "User" : "Recommender"),
        ...(read ? [folded({ class: "tokens" }, "word by word", () => [tokens(pieces)])] : []),
        ...(notes ? [element("details", { class: "note", open: unfolded.notes }, element("summary", {}, "private note"), element("span", {}, notes))] : []),
      ),
      element("span", { class: "text" }, ...(pieces.length ? pieces.map((piece) => words(piece, read)) : [element("i", {}, "says nothing")])),
      ...candidates.map(({ title, rows }) =>
        folded({ class: "candidates" }, `Candidates for ${title}`, () => [
          table(
            ["Title", "Prior", "Model, ln p", "Probability"],
            rows.map(([name, prior, logprob, probability, named]) => [[named ? `${name} ← named` : name, percent(Math.exp(prior)), nats(logprob), percent(probability)], named]),
          ),
        ]),
      ),
    );
  }

  function words([text, kind, logprob], read) {
    const shade = read && logprob !== null;
    if (!kind && !shade) return text;
    const classes = [kind, ...(shade ? ["token", `doubt-${doubt(logprob)}`] : [])].filter(Boolean).join(" ");
    return element("span", { class: classes, title: shade ? `${percent(Math.exp(logprob))} (ln p = ${nats(logprob)})` : false }, text);
  }

  const tokens = (pieces) =>
    table(["Token", "Probability", "ln p"], pieces.filter(([, , logprob]) => logprob !== null).map(([text, , logprob]) => [[text, percent(Math.exp(logprob)), nats(logprob)], false]));

  // ── the page ───────────────────────────────────────────────────────────────────────────────────────────────────

  const bound = (label, name, none) => {
    const input = element("input", { type: "number", step: "any", oninput: () => { wanted[name] = input.value === "" ? none : Number(input.value); filter(); } });
    return element("label", { class: "bound" }, label, input);
  };
  const stops = [...new Map(dialogues.map(({ stop, ending }) => [stop, ending]))].sort();
  const set = (name, convert = (text) => text) => (text) => { wanted[name] = convert(text); filter(); };
  const metricChoice = choice("Order by", [["", "name"], ...metrics.map(({ name, title }) => [name, title])], "", set("metric"));
  root.replaceChildren(
    element(
      "div",
      { class: "filters", role: "search", "aria-label": "Which dialogues" },
      ...(runs.length > 1 ? [choice("Run", [["", "all"], ...runs.map((name, run) => [String(run), name])], wanted.run, set("run"))] : []),
      choice("Stop reason", [["", "any"], ...stops], "", set("stop")),
      metricChoice,
      choice("Order", [["down", "highest first"], ["up", "lowest first"]], "down", set("descending", (text) => text === "down")),
      bound("From", "from", -Infinity),
      bound("To", "to", Infinity),
      count,
    ),
    element("div", { class: "body" }, list, shown),
  );
  root.classList.add("crs", "crs-viewer");
  filter();
}

const page = document.querySelector("[data-crs-viewer]");
if (page) mount(page, JSON.parse(document.querySelector("[data-crs-dialogues]").textContent));
