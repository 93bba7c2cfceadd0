// The page on which a person talks with a simulator, for JupyterLab (crslib/web/widgets.py). It shows the state of
// crslib/web/talk.py and sends the person's requests. It knows neither the models nor what the other party knows.

import { element, utterance } from "./element.js";

const ROLES = [
  { role: "user", name: "User", other: "recommender", what: (item) => `You look for ${item}; a model recommends.` },
  { role: "recommender", name: "Recommender", other: "user", what: () => "You recommend; a simulated user reacts." },
];
const PATIENCE_MS = 10_000; // for the kernel's first reply to a request

/** Shows in `root` every state that `onState` passes to `show`, the current one at once. `send(action, content)` sends a
 *  request. */
export function mount(root, onState, send) {
  const above = element("div", {}); // the dialogue
  const status = element("p", { class: "status", role: "status", "aria-live": "polite" });
  const below = element("div", {}); // what the person can do
  root.replaceChildren(above, status, below);
  root.classList.add("crs", "crs-chat");
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // turns JupyterLab's own keys off
  let state = null;
  let parts = null; // elements of the page during a dialogue
  let wanted = ""; // the chosen profile
  let waiting = 0;

  function ask(action, content = {}) {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      say("The notebook's kernel does not answer: it is busy with another cell, or it was restarted. After a restart, run this cell again.", true);
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
    parts.leave.disabled = state.note !== ""; // the person has left
    parts.log.classList.toggle("waits", state.phase === "theirs" || state.phase === "opening");
    if (state.phase === "over") drawEnd(mine);
    else {
      say(state.note || { opening: "The models are being opened …", theirs: `The ${mine.other} is thinking …`, yours: "Your turn." }[state.phase]);
    }
  }

  // ── drawing ────────────────────────────────────────────────────────────────────────────────────────────────────

  function drawStart() {
    const profile = element("input", { name: "profile", value: wanted, autocomplete: "off", maxlength: "100" });
    const who = element("label", { class: "profile-of" }, "Who is the user? A profile_id; empty: chosen by the seed", profile);
    const choices = ROLES.map(({ role, name, what }) => {
      const input = element("input", { type: "radio", name: "crs-chat-role", value: role, onchange: chosen });
      input.checked = role === state.role;
      return element("label", { class: "choice" }, input, element("span", {}, element("b", {}, name), element("br"), what(state ? state.item : "an item")));
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
      event.stopPropagation(); // JupyterLab would take Enter
      if (event.key === "Enter" && event.target !== form.lastChild) begin(event);
    });
    chosen();
    above.replaceChildren();
    below.replaceChildren(form);
  }

  function drawTalk({ name, other }, takeFocus) {
    const list = element("ol", {});
    const log = element("div", { class: "talk", role: "log", tabindex: "0", "aria-label": "The dialogue" }, list);
    const words = element("textarea", { rows: "2", maxlength: "1000", autocomplete: "off" });
    const submit = element("button", { type: "submit", class: "main" }, "Say it");
    const leave = element("button", { type: "button", onclick: () => ask("leave") }, "Leave");
    function speak(event) {
      event.preventDefault();
      const text = words.value.trim();
      if (!text || state.phase !== "yours") return; // a person may type before it is their turn
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
      element("div", { class: "do" }, submit, leave, element("span", { class: "hint" }, "Enter: say it. Shift+Enter: new line")),
    );
    parts = { log, list, submit, leave };
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
    const { private: secret, path } = state;
    const lines = (name, texts) => (texts.length ? [element("h3", {}, name), ...texts.map((text) => element("p", {}, text))] : []);
    const unfolded = secret
      ? element(
          "details",
          { class: "private" },
          element("summary", {}, "What the user knew and you did not"),
          ...lines("About itself", secret.summary ? [secret.summary] : []),
          ...lines("Looking for", secret.attributes ? [secret.attributes] : []),
          ...lines(`What it remembered or thought of your ${state.items} before each answer`, secret.notes),
        )
      : path ? element("p", {}, `The ${other} had no private knowledge: it knew only the dialogue.`) : "";
    const again = element("button", { type: "button", class: "main", onclick: restart }, "Talk again");
    const saved = path ? [element("p", { class: "hint" }, "Saved as a run in ", element("code", {}, path))] : [];
    const active = document.activeElement; // the body after a focused button was disabled
    const mayFocus = active === document.body || below.contains(active);
    below.replaceChildren(element("div", { class: "end" }, unfolded, ...saved, again));
    say(state.note, !path);
    if (mayFocus) again.focus({ preventScroll: true });
  }

  function restart() {
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
