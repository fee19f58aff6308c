// Create elements without a framework: h("p", {class: "muted"}, "text", child).

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Changes the page only if the text differs: screen readers announce changes, and selected text stays selected.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function badge(word, kind) {
  return h("span", { class: "badge", "data-kind": kind }, word);
}

// A table whose rows become cards on a phone. columns: [{title, number, cell(row) -> node or text}]
export function table(caption, columns, rows, rowAttributes = () => ({})) {
  const heads = columns.map(({ title, number }) => h("th", { scope: "col", class: number && "number" }, title));
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h("table", { class: "cards" },
      h("caption", { class: "only-read" }, caption),
      h("thead", {}, h("tr", {}, heads)),
      h("tbody", {}, rows.map((row) => h("tr", rowAttributes(row), columns.map(({ title, number, cell }) =>
        h("td", { "data-label": title, class: number && "number" }, cell(row))))))));
}
