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

// A film with boxes, each {quad: shares of the image, kind: classes, text}; picture is null if there is no film.
function film(picture, boxes, description) {
  const height = picture ? (100 * picture.height) / picture.width : 100;
  const drawn = shape("svg", { viewBox: `0 0 100 ${height}`, class: "film", role: "img", "aria-label": description });
  if (picture) {
    const source = `data:image/jpeg;base64,${picture.data}`;
    drawn.append(shape("image", { href: source, width: 100, height, preserveAspectRatio: "none" }));
  }
  for (const { quad: [x1, y1, x2, y2], kind, text } of boxes) {
    const corner = { x: x1 * 100, y: y1 * height };
    const size = { width: (x2 - x1) * 100, height: (y2 - y1) * height };
    const above = { x: corner.x, y: corner.y > 5 ? corner.y - 1 : corner.y + 4.5 };
    drawn.append(shape("g", { class: kind }, shape("rect", { ...corner, ...size }), text ? shape("text", above, text) : null));
  }
  return drawn;
}

function embedded(id) {
  return JSON.parse(document.getElementById(id).textContent);
}
