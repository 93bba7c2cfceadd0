// The page on which people compare two dialogues: one module for a browser tab (served by crslib/web/server.py) and for
// JupyterLab (crslib/web/widgets.py). It shows the study's `state` and sends answers. It knows neither the conditions nor
// the following pairs.

import { element, utterance } from "./element.js";

const ANSWERS = [
  { choice: "left", label: "Left", hint: "1 or ←", keys: ["1", "ArrowLeft"] },
  { choice: "tie", label: "No difference", hint: "2 or T", keys: ["2", "t"] },
  { choice: "right", label: "Right", hint: "3 or →", keys: ["3", "ArrowRight"] },
];
const RETRY_MS = 1000;

// randomUUID exists only on loopback and behind TLS
const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("-");

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Shows a study in `root`. `send(action, body)` resolves to {state} or {error}, and rejects without a reply. */
export function mount(root, send, { rater = "", onRater = () => {}, keysFrom = root, takeFocus = true } = {}) {
  const status = element("p", { class: "status", role: "status", "aria-live": "polite" });
  const body = element("div", { class: "body" });
  root.replaceChildren(body, status);
  root.classList.add("crs", "crs-people");
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // turns JupyterLab's own keys off
  let state = null;
  let busy = false;
  let shownAt = 0;
  let answers = [];

  async function ask(action, content) {
    if (busy) return;
    busy = true;
    body.setAttribute("aria-busy", "true");
    for (;;) {
      try {
        const reply = await send(action, content);
        if (!reply.error) show(reply.state);
        else {
          if (!body.hasChildNodes()) drawSignIn(); // the name in the address was refused
          status.textContent = reply.error;
        }
        break;
      } catch {
        status.textContent = "No connection to the study. Your answer is not lost: it is sent again until it is saved.";
        await pause(RETRY_MS);
      }
    }
    busy = false;
    body.removeAttribute("aria-busy");
  }

  function answer(choice) {
    if (!state || state.done) return;
    const seconds = (performance.now() - shownAt) / 1000;
    ask("vote", { rater: state.rater, key: newKey(), order: state.order, criterion: state.criterion, choice, seconds });
  }

  const undo = () => state?.undo && ask("undo", { rater: state.rater, key: newKey() });

  function show(next) {
    const samePair = state && !state.done && !next.done && state.order === next.order;
    const first = state === null;
    state = next;
    onRater(state.rater);
    if (!samePair) drawPair();
    drawQuestion();
    status.textContent = state.note;
    shownAt = performance.now();
    if (!first || takeFocus) body.querySelector("h2").focus({ preventScroll: samePair });
  }

  // ── drawing ────────────────────────────────────────────────────────────────────────────────────────────────────

  function drawSignIn() {
    const name = element("input", { id: "crs-people-name", name: "rater", maxlength: "40", required: true, autocomplete: "off" });
    const begin = (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (name.value.trim()) ask("state", { rater: name.value.trim() });
    };
    name.addEventListener("keydown", (event) => event.key === "Enter" && begin(event)); // JupyterLab would take Enter
    body.replaceChildren(
      element(
        "form",
        { onsubmit: begin, class: "sign-in" },
        element("label", { for: "crs-people-name" }, "Your name"),
        name,
        element("button", { type: "submit" }, "Begin or continue"),
      ),
      element("p", {}, "You will see two dialogues at a time and say which is better. You can stop at any time; with the same name you continue where you stopped."),
    );
    if (takeFocus) name.focus();
  }

  function drawPair() {
    body.replaceChildren(element("div", { class: "ask" }), element("div", { class: "private" }));
    if (!state.done) {
      body.append(element("div", { class: "sides" }, side("Left", state.left), side("Right", state.right)));
    }
  }

  function side(name, turns) {
    const items = turns.map((turn) => utterance(turn));
    const label = `${name} dialogue`;
    return element(
      "section",
      { "aria-label": label },
      element("h3", {}, name),
      element("div", { class: "talk", tabindex: "0", role: "group", "aria-label": `${label}, ${turns.length} turns` }, element("ol", {}, ...items)),
    );
  }

  function drawQuestion() {
    const done = state.order * state.steps + state.step;
    const where = state.done
      ? `${state.pairs} of ${state.pairs} pairs`
      : `Pair ${state.order + 1} of ${state.pairs}, question ${state.step + 1} of ${state.steps}`;
    answers = state.done
      ? []
      : ANSWERS.map(({ choice, label, hint, keys }) =>
          element(
            "button",
            // else the second click of a double click would answer the next question
            { type: "button", class: `answer ${choice}`, "aria-keyshortcuts": keys.join(" "), onclick: (event) => event.detail < 2 && answer(choice) },
            label,
            element("kbd", { "aria-hidden": "true" }, hint),
          ),
        );
    const back = element("button", { type: "button", class: "undo", "aria-keyshortcuts": "u", disabled: !state.undo, onclick: (event) => event.detail < 2 && undo() }, "Undo", element("kbd", { "aria-hidden": "true" }, "U"));
    const question = state.done ? `Thank you, ${state.rater}. You have answered everything.` : state.question;
    body.querySelector(".ask").replaceChildren(
      element(
        "div",
        { class: "where" },
        element("progress", { max: String(state.pairs * state.steps), value: String(done), "aria-label": "Answered so far" }),
        element("span", {}, where),
        element("span", { class: "rater" }, state.rater),
      ),
      element("h2", { tabindex: "-1", id: "crs-people-question" }, question),
      element("div", { class: "answers", role: "group", "aria-labelledby": "crs-people-question" }, ...answers, back),
    );
    const profile = state.profile;
    body.querySelector(".private").replaceChildren(
      ...(profile
        ? [
            element(
              "section",
              { class: "profile", "aria-label": "What the user knows" },
              element("h3", {}, "What the user knows about itself"),
              element("p", {}, profile.summary),
              ...(profile.attributes ? [element("p", {}, element("b", {}, "Looking for: "), profile.attributes)] : []),
            ),
          ]
        : []),
    );
  }

  // ── keys ───────────────────────────────────────────────────────────────────────────────────────────────────────

  function onKey(event) {
    if (!state || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLInputElement) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const chosen = ANSWERS.find(({ keys }) => keys.includes(key));
    if (!chosen && key !== "u") return;
    event.preventDefault();
    event.stopPropagation();
    if (chosen) answer(chosen.choice);
    else undo();
  }

  keysFrom.addEventListener("keydown", onKey);
  if (rater) ask("state", { rater });
  else drawSignIn();
  return () => keysFrom.removeEventListener("keydown", onKey);
}

// ── in a browser tab ───────────────────────────────────────────────────────────────────────────────────────────────

const page = document.querySelector("[data-crs-people-page]");
if (page) {
  const query = new URLSearchParams(location.search);
  const send = async (action, content) => {
    const reply = await fetch(`api/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${query.get("token") ?? ""}` },
      body: JSON.stringify(content),
    });
    if (reply.status >= 500) throw new Error(reply.statusText);
    return reply.json();
  };
  const onRater = (name) => {
    if (query.get("rater") === name) return;
    query.set("rater", name); // after a reload the name is the same
    history.replaceState(null, "", `?${query}`);
  };
  mount(page, send, { rater: query.get("rater") ?? "", onRater, keysFrom: document });
}

// ── in JupyterLab ──────────────────────────────────────────────────────────────────────────────────────────────────

function render({ model, el }) {
  const waiting = new Map();
  const receive = (message) => {
    waiting.get(message.id)?.(message);
    waiting.delete(message.id);
  };
  const send = (action, content) =>
    new Promise((resolve, reject) => {
      const id = `${action} ${content.key ?? content.rater}`; // the same when sent again, so that a late reply still counts
      waiting.set(id, resolve);
      model.send({ id, action, content });
      setTimeout(() => waiting.delete(id) && reject(new Error("no answer")), 10 * RETRY_MS);
    });
  model.on("msg:custom", receive);
  const unmount = mount(el, send, { rater: model.get("rater"), takeFocus: false });
  return () => {
    unmount();
    model.off("msg:custom", receive);
  };
}

export default { render };
