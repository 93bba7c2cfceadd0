// The viewer of dialogues: a list to search, filter and sort, and the chosen dialogue side by side with another one, of
// the same profile or any. It shows the rows of crslib/web/viewer.py, which a file holds all, and computes no figure. Over
// all runs it shows them as a table and asks crslib/web/archive.py for texts and scores.

import { element } from "./element.js";

const PAGE_ROWS = 10; // what PageUp and PageDown move by
const LIST_ROWS = 200; // drawn at once; more as one scrolls
const PAUSE_MS = 150; // after a key, until a search is sent

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

/** The words of `text` in the texts of `root`, marked where the browser can. Nothing in the page is changed. */
function highlight(root, text) {
  if (!CSS.highlights) return;
  CSS.highlights.delete("crs-found");
  const wanted = text.trim().toLowerCase();
  if (!wanted) return;
  const ranges = [...root.querySelectorAll(".text, .profile p")].flatMap((element) => {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    const ends = []; // [node, where it begins]
    let whole = "";
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      ends.push([node, whole.length]);
      whole += node.data;
    }
    const lower = whole.toLowerCase();
    if (lower.length !== whole.length) return []; // of letters that grow in lower case places are not known
    const place = (at) => ends.findLast(([, begins]) => begins <= at);
    const found = [];
    for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, at + wanted.length)) {
      const range = document.createRange();
      const [first, last] = [place(at), place(at + wanted.length - 1)];
      range.setStart(first[0], at - first[1]);
      range.setEnd(last[0], at + wanted.length - last[1]);
      found.push(range);
    }
    return found;
  });
  CSS.highlights.set("crs-found", new Highlight(...ranges));
}

/**
 * Shows `data`: {runs, metrics, dialogues} as `crslib.web.viewer.rows` gives them, or an index of all runs, in which
 * dialogues lack texts and scores; then `ask(action, content)` resolves to what is missing (crslib/web/archive.py).
 * `reports`: the address of a run's report, by the run's `report`; empty: no link. `addressed`: the page's address names the chosen dialogue.
 */
function mount(root, { runs, metrics, dialogues }, { ask = null, reports = () => "", addressed = false } = {}) {
  const order = (a, b) => a.id.localeCompare(b.id, "en", { numeric: true });
  dialogues.sort((a, b) => (ask ? a.run - b.run || order(a, b) : order(a, b) || a.run - b.run));
  const titles = new Map(metrics.map(({ name, title }) => [name, title]));
  const wanted = { text: "", run: runs.length > 1 && !ask ? "0" : "", parameter: "", value: "", stop: "", metric: "", descending: true, from: -Infinity, to: Infinity };
  const unfolded = { notes: false, confidence: dialogues.some((dialogue) => dialogue.read) };
  const read = new Set(); // metrics whose values are here
  let second = runs.length > 1 && !ask ? 1 : -1; // the run that is shown at the right; -1: none
  let pinned = null; // the dialogue that stays at the left
  let listed = [];
  let nDrawn = 0;
  let chosen = null;
  let filtering = 0; // the newest of these counts: answers may come late
  let showing = 0;

  const problems = { search: {}, values: {} }; // of the newest answers: run → why it cannot be read

  const count = element("span", { class: "count", role: "status" });
  const list = element("ul", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Dialogues", onkeydown: onKey, onscroll: onScroll });
  const shown = element("div", { class: "shown" });

  /** What the page lacks; null, with a word to the person, where it does not come. */
  async function asked(action, content) {
    try {
      const reply = await ask(action, content);
      if (!reply.error) return reply;
      count.textContent = reply.error;
    } catch {
      count.textContent = "No connection: begin `crs look` again, and open the address that it prints.";
    }
    return null;
  }

  // ── which dialogues ────────────────────────────────────────────────────────────────────────────────────────────

  const value = (dialogue) => dialogue.scores?.[wanted.metric];
  const texts = ({ id, summary, attributes, turns }) => [id, summary ?? "", attributes ?? "", ...turns.map(({ pieces }) => pieces.map(([text]) => text).join(""))];

  /** A test whether a dialogue holds the wanted text; null where there is no answer. */
  async function search(text) {
    if (!ask) return (dialogue) => (dialogue.said ??= texts(dialogue).join("\n").toLowerCase()).includes(text.toLowerCase());
    const reply = await asked("search", { text });
    if (!reply) return null;
    problems.search = reply.problems ?? {};
    const found = new Map(Object.entries(reply.found).map(([run, ids]) => [run, new Set(ids)]));
    return (dialogue) => found.get(runs[dialogue.run].id)?.has(dialogue.id) ?? false;
  }

  /** Whether the values of a metric are here, which it asks for. */
  async function readScores(metric) {
    if (!ask || !metric || read.has(metric)) return true;
    const reply = await asked("values", { metric });
    if (!reply) return false;
    read.add(metric);
    problems.values = reply.problems ?? {};
    for (const dialogue of dialogues) {
      const figure = reply.values[runs[dialogue.run].id]?.[dialogue.id];
      if (figure !== undefined) (dialogue.scores ??= {})[metric] = figure;
    }
    return true;
  }

  const ofParameter = (run) => wanted.parameter === "" || wanted.value === "" || run.parameters?.[wanted.parameter] === wanted.value;

  async function filter(keep = null) {
    const turn = ++filtering;
    const text = wanted.text.trim();
    if (ask && text) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    if (turn !== filtering) return;
    const matches = text ? await search(text) : () => true;
    const scored = await readScores(wanted.metric);
    if (turn !== filtering || !matches || !scored) return;
    const { run, stop, metric, descending, from, to } = wanted;
    const bounded = metric && (from > -Infinity || to < Infinity);
    listed = dialogues.filter(
      (dialogue) =>
        (run === "" || dialogue.run === Number(run)) &&
        ofParameter(runs[dialogue.run]) &&
        (stop === "" || dialogue.stop === stop) &&
        (!bounded || (value(dialogue) >= from && value(dialogue) <= to)) &&
        matches(dialogue),
    );
    if (metric) {
      const last = descending ? -Infinity : Infinity; // dialogues without a value come last in either order
      listed.sort((a, b) => (descending ? 1 : -1) * ((value(b) ?? last) - (value(a) ?? last) || 0));
    }
    const broken = new Set(Object.values({ ...(metric ? problems.values : {}), ...(text ? problems.search : {}) }));
    count.textContent = [`${listed.length} of ${dialogues.length} dialogues`, ...broken].join("; ");
    list.replaceChildren();
    nDrawn = 0;
    draw(LIST_ROWS);
    drawRuns();
    await choose(Math.max(0, keep ? listed.indexOf(keep) : 0));
  }

  function draw(upTo) {
    list.append(...listed.slice(nDrawn, upTo).map((dialogue, number) => option(dialogue, nDrawn + number)));
    nDrawn = Math.max(nDrawn, Math.min(upTo, listed.length));
  }

  function onScroll() {
    if (list.scrollTop + 2 * list.clientHeight > list.scrollHeight) draw(nDrawn + LIST_ROWS);
  }

  const length = (dialogue) => dialogue.turns?.length ?? dialogue.n_turns;

  function option(dialogue, number) {
    const where = wanted.run === "" && runs.length > 1 ? `${runs[dialogue.run].name} · ` : "";
    return element(
      "li",
      { role: "option", id: `crs-dialogue-${number}`, "aria-selected": "false", onclick: () => choose(number) },
      element("span", { class: "id" }, dialogue.id),
      element("span", { class: "soft" }, `${where}${length(dialogue)} turns · ${dialogue.ending}${dialogue.read ? " · replayed" : ""}`),
      element("span", { class: "value" }, wanted.metric ? figure(value(dialogue)) : ""),
    );
  }

  async function choose(number) {
    const at = Math.max(0, Math.min(listed.length - 1, number));
    if (at >= nDrawn) draw(at + LIST_ROWS);
    chosen = listed[at] ?? null;
    await show();
  }

  function onKey(event) {
    const at = listed.indexOf(chosen);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + PAGE_ROWS, PageUp: at - PAGE_ROWS, Home: 0, End: listed.length };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(moves[event.key]);
  }

  // ── links ──────────────────────────────────────────────────────────────────────────────────────────────────────

  const link = (dialogue) => `#${encodeURIComponent(runs[dialogue.run].id)}/${encodeURIComponent(dialogue.id)}`;

  function linked() {
    try {
      const [run, id] = location.hash.slice(1).split("/").map(decodeURIComponent);
      return dialogues.find((dialogue) => dialogue.id === id && runs[dialogue.run].id === run) ?? null;
    } catch {
      return null; // no address of a page of ours
    }
  }

  /** Shows the dialogue of the address, whatever the filters are. */
  function follow() {
    const dialogue = linked();
    if (!dialogue || dialogue === chosen) return;
    Object.assign(wanted, { text: "", run: runs.length > 1 && !ask ? String(dialogue.run) : "", parameter: "", value: "", stop: "", from: -Infinity, to: Infinity });
    drawFilters();
    filter(dialogue);
  }

  // ── the dialogue ───────────────────────────────────────────────────────────────────────────────────────────────

  /** A dialogue with its texts and scores; null where they do not come. */
  async function whole(dialogue) {
    if (dialogue.turns) return dialogue;
    const reply = await asked("dialogue", { run: runs[dialogue.run].id, dialogue: dialogue.id });
    return reply && Object.assign(dialogue, { ...reply, run: dialogue.run });
  }

  async function show() {
    const turn = ++showing;
    const at = listed.indexOf(chosen);
    list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    const row = list.children[at];
    if (!row) {
      list.removeAttribute("aria-activedescendant");
      shown.replaceChildren(element("p", {}, dialogues.length ? "No dialogue matches these filters." : "There are no dialogues yet: `crs run` makes some."));
      return;
    }
    row.setAttribute("aria-selected", "true");
    row.scrollIntoView({ block: "nearest" });
    list.setAttribute("aria-activedescendant", row.id);
    const partners = new Map(); // run → its dialogue of the same id, or else of the same profile
    for (const dialogue of dialogues) {
      const same = dialogue.id === chosen.id || (dialogue.profile === chosen.profile && !partners.has(dialogue.run));
      if (dialogue.run !== chosen.run && same) partners.set(dialogue.run, dialogue);
    }
    const others = runs.map(({ name }, run) => [String(run), name]).filter(([run]) => Number(run) !== chosen.run && (!ask || partners.has(Number(run))));
    let other = second === chosen.run ? Number((others[0] ?? [-1])[0]) : second;
    if (!others.some(([run]) => Number(run) === other)) other = -1;
    const match = partners.get(other);
    const sides = pinned && pinned !== chosen ? [pinned, chosen] : match ? [chosen, match] : [chosen];
    const wholeSides = await Promise.all(sides.map(whole));
    if (turn !== showing || wholeSides.includes(null)) return;
    if (addressed) history.replaceState(null, "", link(chosen));
    const replayed = sides.some((dialogue) => dialogue.read);
    shown.replaceChildren(
      element(
        "div",
        { class: "tools", role: "group", "aria-label": "What is shown" },
        ...(others.length ? [choice("Compare with", [["-1", "nothing"], ...others], String(other), (run) => { second = Number(run); pinned = null; show(); })] : []),
        tick("Unfold private notes", unfolded.notes, (on) => { unfolded.notes = on; show(); }),
        tick("Keep at the left", pinned !== null, (on) => { pinned = on ? chosen : null; show(); }),
        ...(replayed ? [tick("Shade by confidence", unfolded.confidence, (on) => { unfolded.confidence = on; show(); }), ...(unfolded.confidence ? [legend()] : [])] : []),
      ),
      profile(sides[0]),
      element("div", { class: `sides of-${sides.length}` }, ...sides.map((dialogue) => side(dialogue, sides[0]))),
      ...(other >= 0 && !match && !pinned ? [element("p", {}, `${runs[other].name} has no dialogue of this profile.`)] : []),
    );
    highlight(shown, wanted.text);
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

  function side(dialogue, first) {
    const { name: of, report } = runs[dialogue.run];
    const name = `${of}, ${dialogue.id}`;
    const address = report ? reports(report) : "";
    const otherProfile = dialogue.summary !== first.summary || dialogue.attributes !== first.attributes;
    return element(
      "section",
      { "aria-label": name },
      element("h2", {}, addressed ? element("a", { href: link(dialogue), title: "Link to this dialogue" }, name) : name),
      element("p", { class: "soft" }, `The ${dialogue.opener} opens · ${dialogue.turns.length} turns · ${dialogue.ending}`, ...(address ? [" · ", element("a", { href: address, target: "_blank", rel: "noreferrer" }, "report of the run")] : [])),
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

  // ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────

  const holds = (name) => runs.some(({ cells }) => ![null, undefined, ""].includes(cells[name]));
  const columns = [...new Set(runs.flatMap(({ cells }) => Object.keys(cells ?? {})))].filter(holds);
  const isNumber = (name) => runs.some(({ cells }) => typeof cells[name] === "number");
  const runTable = element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table of runs" });
  const sorted = { by: "", up: true };

  const cell = (content) => (content === null || content === undefined ? "" : typeof content === "number" ? (Number.isInteger(content) ? String(content) : figure(content)) : String(content));

  function drawRuns() {
    if (!columns.length) return;
    const rows = runs.map((run, number) => ({ run, number })).filter(({ run }) => ofParameter(run));
    const key = ({ run }) => (sorted.by === "run" ? run.name : run.cells[sorted.by]);
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : cell(a).localeCompare(cell(b), "en", { numeric: true }));
    if (sorted.by) rows.sort((a, b) => (sorted.up ? 1 : -1) * compare(key(a), key(b)));
    const head = (name) =>
      element(
        "th",
        { scope: "col", class: name !== "run" && isNumber(name) ? "number" : false, "aria-sort": sorted.by !== name ? false : sorted.up ? "ascending" : "descending" },
        element("button", { type: "button", onclick: () => { sorted.up = sorted.by === name ? !sorted.up : true; sorted.by = name; drawRuns(); } }, name.replaceAll("_", " "), element("span", { "aria-hidden": "true" }, sorted.by !== name ? "" : sorted.up ? " ▲" : " ▼")),
      );
    const row = ({ run, number }) =>
      element(
        "tr",
        { class: wanted.run === String(number) ? "named" : false },
        element("th", { scope: "row" }, element("button", { type: "button", "aria-pressed": String(wanted.run === String(number)), onclick: () => { wanted.run = wanted.run === String(number) ? "" : String(number); drawFilters(); filter(); } }, run.name)),
        ...columns.map((name) => element("td", { class: typeof run.cells[name] === "number" ? "number" : false }, name === "status" && run.problem ? run.problem : cell(run.cells[name]))),
      );
    const where = [runTable.scrollTop, runTable.scrollLeft];
    runTable.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, head("run"), ...columns.map(head))), element("tbody", {}, ...rows.map(row))));
    runTable.scrollTo(where[1], where[0]);
  }

  // ── the page ───────────────────────────────────────────────────────────────────────────────────────────────────

  const bound = (label, name, none) => {
    const input = element("input", { type: "number", step: "any", value: Number.isFinite(wanted[name]) ? String(wanted[name]) : "", oninput: () => { wanted[name] = input.value === "" ? none : Number(input.value); filter(); } });
    return element("label", { class: "bound" }, label, input);
  };
  const stops = [...new Map(dialogues.map(({ stop, ending }) => [stop, ending]))].sort();
  const names = [...new Set(runs.flatMap(({ parameters }) => Object.keys(parameters ?? {})))].sort();
  const values = (name) => [...new Set(runs.map(({ parameters }) => parameters?.[name]).filter((one) => one !== undefined))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const set = (name, convert = (text) => text) => (text) => { wanted[name] = convert(text); filter(); };
  const box = element("input", { type: "search", placeholder: "in what is said and in profiles ( / )", oninput: () => { wanted.text = box.value; filter(); } });
  const choices = element("div", { class: "filters" });

  function drawFilters() {
    box.value = wanted.text;
    choices.replaceChildren(
      ...(runs.length > 1 ? [choice("Run", [["", "all"], ...runs.map(({ name }, run) => [String(run), name])], wanted.run, set("run"))] : []),
      ...(names.length ? [choice("Parameter", [["", "any"], ...names.map((name) => [name, name])], wanted.parameter, (name) => { Object.assign(wanted, { parameter: name, value: "" }); drawFilters(); choices.querySelectorAll("select")[runs.length > 1 ? 1 : 0].focus(); filter(); })] : []),
      ...(wanted.parameter ? [choice("Value", [["", "any"], ...values(wanted.parameter).map((one) => [one, one === "" ? "empty" : one])], wanted.value, set("value"))] : []),
      choice("Stop reason", [["", "any"], ...stops], wanted.stop, set("stop")),
      choice("Order by", [["", ask ? "run" : "name"], ...metrics.map(({ name, title }) => [name, title])], wanted.metric, set("metric")),
      choice("Order", [["down", "highest first"], ["up", "lowest first"]], wanted.descending ? "down" : "up", set("descending", (text) => text === "down")),
      bound("From", "from", -Infinity),
      bound("To", "to", Infinity),
    );
  }

  const onSlash = (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    box.focus();
  };
  const wide = matchMedia("(min-width: 701px)").matches; // on a phone the filters are folded
  root.replaceChildren(
    ...(columns.length ? [element("details", { class: "runs", open: wide }, element("summary", {}, `${runs.length} runs`), runTable)] : []),
    element(
      "div",
      { class: "search", role: "search", "aria-label": "Which dialogues" },
      element("label", { class: "words" }, "Search", box),
      element("details", { class: "more", open: wide }, element("summary", {}, "Filters"), choices),
      count,
    ),
    element("div", { class: "body" }, list, shown),
  );
  root.classList.add("crs", "crs-viewer");
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // turns JupyterLab's own keys off
  (addressed ? document : root).addEventListener("keydown", onSlash);
  if (addressed) window.addEventListener("hashchange", follow);
  const first = addressed ? linked() : null;
  if (first && !ask && runs.length > 1) wanted.run = String(first.run);
  drawFilters();
  filter(first);
}

// ── in a browser tab: a file that holds all, or a page of crslib/web/archive.py ────────────────────────────────────

const page = document.querySelector("[data-crs-viewer]");
if (page) {
  const held = document.querySelector("[data-crs-dialogues]");
  const token = new URLSearchParams(location.search).get("token") ?? "";
  const ask = async (action, content) => {
    const reply = await fetch(`api/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
      body: JSON.stringify(content),
    });
    return reply.json();
  };
  if (held) mount(page, JSON.parse(held.textContent), { addressed: location.protocol !== "about:" }); // a notebook's frame
  else begin(page, { ask, reports: (word) => `report/${word}`, addressed: true });
}

/** Shows the index that `settings.ask` gives. */
async function begin(root, settings) {
  try {
    const index = await settings.ask("index", {});
    if (index.error) root.textContent = index.error;
    else mount(root, index, settings);
  } catch {
    root.textContent = "No connection: begin `crs look` again, and open the address that it prints.";
  }
}

// ── in JupyterLab ──────────────────────────────────────────────────────────────────────────────────────────────────

function render({ model, el }) {
  const waiting = new Map();
  let nAsked = 0;
  const receive = (message) => {
    waiting.get(message.id)?.(message.reply);
    waiting.delete(message.id);
  };
  model.on("msg:custom", receive);
  const ask = (action, content) =>
    new Promise((resolve) => {
      waiting.set(++nAsked, resolve);
      model.send({ id: nAsked, action, content });
    });
  begin(el, { ask });
  return () => model.off("msg:custom", receive);
}

export default { render };
