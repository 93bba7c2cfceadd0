// What all pages of this folder draw with. All text enters as text nodes, so markup in a dialogue is shown and never run.

/** A new `tag`; attributes that begin with "on" are listeners, false leaves one out; `children` are nodes or texts. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made[name] = value;
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** One utterance: `pieces` are [text, whether it names an item]; `more` comes below the words. */
export function utterance({ role, pieces }, ...more) {
  return element(
    "li",
    { class: role },
    element("span", { class: "who" }, role === "user" ? "User" : "Recommender"),
    element("span", { class: "said" }, ...pieces.map(([text, item]) => (item ? element("b", {}, text) : text))),
    ...more,
  );
}
