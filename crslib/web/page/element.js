// Functions that all pages draw with. All text enters as text nodes, so markup in a dialogue is shown and never run.

/** A new `tag`; attributes that begin with "on" are listeners, and those that are false are left out; `children` are nodes or texts. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node[name] = value;
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** One utterance: `pieces` are [text, whether it names an item]; `more` comes below the text. */
export function utterance({ role, pieces }, ...more) {
  return element(
    "li",
    { class: role },
    element("span", { class: "who" }, role === "user" ? "User" : "Recommender"),
    element("span", { class: "text" }, ...pieces.map(([text, item]) => (item ? element("b", {}, text) : text))),
    ...more,
  );
}
