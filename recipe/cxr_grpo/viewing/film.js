"use strict";
// Elements made from data: text becomes text nodes, never markup.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  return fill(made, attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// A film with boxes, each {quad: shares of the image, kind: classes, text, below}; picture is undefined without a film.
// The texts of true boxes stand above them and those of predicted ones below, so that a pair's can both be read.
function film(picture, boxes, description) {
  const height = picture ? (100 * picture.height) / picture.width : 100;
  const drawn = shape("svg", { viewBox: `0 0 100 ${height}`, class: "film", role: "img", "aria-label": description });
  if (picture) {
    const source = `data:image/jpeg;base64,${picture.data}`;
    drawn.append(shape("image", { href: source, width: 100, height, preserveAspectRatio: "none" }));
  }
  for (const { quad: [x1, y1, x2, y2], kind, text, below } of boxes) {
    const corner = { x: x1 * 100, y: y1 * height };
    const size = { width: (x2 - x1) * 100, height: (y2 - y1) * height };
    const baseline = below ? Math.min(y2 * height + 3.6, height - 1) : Math.max(corner.y - 1, 3.6);
    const words = text ? shape("text", { x: corner.x, y: baseline }, text) : null;
    drawn.append(shape("g", { class: kind }, shape("rect", { ...corner, ...size }), words));
  }
  return drawn;
}

function embedded(id) {
  return JSON.parse(document.getElementById(id).textContent);
}
