// The search in a run's dialogues: entries without the words are hidden, the others show the first turn that has them.
const box = document.querySelector("#search");
const found = document.querySelector("#found");
const entries = [...document.querySelectorAll(".entry")].map((element) => {
  const first = element.querySelector(".first");
  const turns = [...element.querySelectorAll(".bubble")];
  const texts = [element.querySelector("summary b"), ...element.querySelectorAll(".bubble, .note, .private p, .private li")];
  return { element, first, opening: first.textContent, turns, text: texts.map((one) => one.textContent).join("\n").toLowerCase() };
});

function search() {
  const wanted = box.value.trim().toLowerCase();
  let n = 0;
  for (const { element, first, opening, turns, text } of entries) {
    element.hidden = !text.includes(wanted);
    n += !element.hidden;
    const turn = wanted && turns.find((one) => said(one).toLowerCase().includes(wanted));
    first.textContent = turn ? said(turn) : opening;
  }
  found.textContent = wanted ? `${n} of ${entries.length} dialogues` : "";
  mark(wanted);
}

// What a turn says, without who says it.
function said(turn) {
  return turn.textContent.slice(turn.querySelector(".who").textContent.length);
}

// Marks the words where a browser can do so without a change of the page.
function mark(wanted) {
  if (!globalThis.Highlight) return;
  const ranges = [];
  const shown = entries.filter(({ element }) => wanted && !element.hidden).map(({ element }) => element);
  for (const element of shown) {
    const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode.data.toLowerCase();
      if (text.length !== texts.currentNode.length) continue; // of letters that grow in lower case places are not known
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
        const range = new Range();
        range.setStart(texts.currentNode, at);
        range.setEnd(texts.currentNode, at + wanted.length);
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

function unfoldFirst(event) {
  if (event.key !== "Enter") return;
  const first = entries.find(({ element }) => !element.hidden);
  if (!first) return;
  event.preventDefault(); // else the key folds it again
  first.element.open = true;
  first.element.querySelector("summary").focus();
}

if (box) { // a report without dialogues has none
  box.addEventListener("input", search);
  box.addEventListener("keydown", unfoldFirst);
  search(); // a browser that goes back fills the box again
}
