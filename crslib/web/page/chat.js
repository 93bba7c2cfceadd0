// The page on which a person talks with a simulator, for JupyterLab (crslib/people/widget.py). It shows the state of
// crslib/people/talking.py and asks for what the person does; it knows neither models nor what the other party holds.

import { element, utterance } from "./element.js";

const ROLES = [
  { role: "user", name: "User", other: "recommender", what: "You look for a film; a model recommends." },
  { role: "recommender", name: "Recommender", other: "user", what: "You recommend; a simulated person reacts." },
];
const PATIENCE_MS = 10_000; // until the kernel shows that it has heard

/** Shows in `root` the states that `onState(show)` brings, the present one at once; `send(action, content)` asks. */
export function mount(root, onState, send) {
  const above = element("div", {}); // what was said
  const status = element("p", { class: "status", role: "status", "aria-live": "polite" });
  const below = element("div", {}); // what the person can do
  root.replaceChildren(above, status, below);
  root.classList.add("crs", "crs-chat");
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's own keys stay out
  let state = null;
  let parts = null; // of the page in a dialogue
  let wanted = ""; // the profile asked for
  let waiting = 0;

  function ask(action, content = {}) {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      say("The notebook's kernel does not answer: it is busy with another cell, or it was started anew; then run this cell again.", true);
    }, PATIENCE_MS);
    send(action, content);
  }

  function say(text, alarm = false) {
    status.textContent = text;
    status.classList.toggle("alarm", alarm);
  }

  function show(next) {
    clearTimeout(waiting);
    const before = state;
    state = next;
    const mine = ROLES.find(({ role }) => role === state.role);
    if (state.phase === "start") {
      if (before?.phase !== "start") drawStart();
      say(state.note, true);
      return;
    }
    if (before === null || ["start", "over"].includes(before.phase)) drawTalk(mine, before !== null);
    for (const turn of state.turns.slice(parts.list.childElementCount)) append(turn);
    parts.submit.disabled = state.phase !== "yours";
    parts.go.disabled = state.note !== ""; // they are going
    parts.log.classList.toggle("waits", state.phase === "theirs" || state.phase === "opening");
    if (state.phase === "over") drawEnd(mine);
    else {
      say(state.note || { opening: "The models are being opened …", theirs: `The ${mine.other} is thinking …`, yours: "Your turn." }[state.phase]);
    }
  }

  // ── drawing ────────────────────────────────────────────────────────────────────────────────────────────────────

  function drawStart() {
    const profile = element("input", { name: "profile", value: wanted, autocomplete: "off", maxlength: "100" });
    const who = element("label", { class: "profile-of" }, "Who is it? A profile_id; empty: the seed chooses", profile);
    const choices = ROLES.map(({ role, name, what }) => {
      const input = element("input", { type: "radio", name: "crs-chat-role", value: role, onchange: chosen });
      input.checked = role === state.role;
      return element("label", { class: "choice" }, input, element("span", {}, element("b", {}, name), element("br"), what));
    });
    const form = element(
      "form",
      { onsubmit: begin },
      element("fieldset", {}, element("legend", {}, "Who are you?"), ...choices),
      who,
      element("button", { type: "submit", class: "main" }, "Begin"),
    );
    const picked = () => form.querySelector("input:checked").value;
    function chosen() {
      who.hidden = picked() !== "recommender";
    }
    function begin(event) {
      event.preventDefault();
      event.stopPropagation();
      wanted = picked() === "recommender" ? profile.value : "";
      ask("start", { role: picked(), profile: wanted });
    }
    form.addEventListener("keydown", (event) => {
      event.stopPropagation(); // JupyterLab takes Enter away
      if (event.key === "Enter" && event.target !== form.lastChild) begin(event);
    });
    chosen();
    above.replaceChildren();
    below.replaceChildren(form);
  }

  function drawTalk({ name, other }, takeFocus) {
    const list = element("ol", {});
    const log = element("div", { class: "talk", role: "log", tabindex: "0", "aria-label": "What was said" }, list);
    const words = element("textarea", { rows: "2", maxlength: "1000", autocomplete: "off" });
    const submit = element("button", { type: "submit", class: "main" }, "Say it");
    const go = element("button", { type: "button", onclick: () => ask("leave") }, "I go");
    function speak(event) {
      event.preventDefault();
      const text = words.value.trim();
      if (!text || state.phase !== "yours") return; // they may think ahead
      words.value = "";
      words.focus({ preventScroll: true });
      ask("say", { text });
    }
    words.addEventListener("keydown", (event) => {
      event.stopPropagation(); // JupyterLab's keys
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) speak(event);
    });
    const form = element(
      "form",
      { onsubmit: speak, class: "say" },
      element("label", {}, `You are the ${name.toLowerCase()}. What do you say?`, words),
      element("div", { class: "do" }, submit, go, element("span", { class: "hint" }, "Enter says it, Shift+Enter makes a new line")),
    );
    parts = { log, list, submit, go };
    above.replaceChildren(log);
    below.replaceChildren(form);
    if (takeFocus) words.focus({ preventScroll: true });
  }

  function append(turn) {
    const mine = turn.role === state.role;
    const item = utterance(turn);
    item.classList.toggle("mine", mine);
    if (mine) item.querySelector(".who").textContent = "You";
    parts.list.append(item);
    parts.log.scrollTop = parts.log.scrollHeight;
  }

  function drawEnd({ other }) {
    const { private: held, path } = state;
    const lines = (name, texts) => (texts.length ? [element("h3", {}, name), ...texts.map((text) => element("p", {}, text))] : []);
    const unfolded = held
      ? element(
          "details",
          { class: "private" },
          element("summary", {}, "What the user knew and you did not"),
          ...lines("About itself", held.summary ? [held.summary] : []),
          ...lines("Looking for", held.attributes ? [held.attributes] : []),
          ...lines("What it remembered or thought of your films, before each answer", held.notes),
        )
      : path ? element("p", {}, `The ${other} held nothing back: it knew only what was said.`) : "";
    const again = element("button", { type: "button", class: "main", onclick: anew }, "Talk again");
    const kept = path ? [element("p", { class: "hint" }, "Kept as a run in ", element("code", {}, path))] : [];
    const active = document.activeElement; // nothing's: a button that can no longer be pressed had it
    const mayFocus = active === document.body || below.contains(active);
    below.replaceChildren(element("div", { class: "end" }, unfolded, ...kept, again));
    say(state.note, !path);
    if (mayFocus) again.focus({ preventScroll: true });
  }

  function anew() {
    drawStart();
    say("");
    below.querySelector("input:checked").focus();
  }

  const off = onState(show);
  return () => {
    clearTimeout(waiting);
    off();
  };
}

// ── in JupyterLab ──────────────────────────────────────────────────────────────────────────────────────────────────

function render({ model, el }) {
  const onState = (show) => {
    const changed = () => show(model.get("state"));
    model.on("change:state", changed);
    changed();
    return () => model.off("change:state", changed);
  };
  return mount(el, onState, (action, content) => model.send({ action, content }));
}

export default { render };
