// Classes of the page: cells of their list, and the class under the pointer. Uses canvas, current, data, element and
// pointer of the script that follows.
function cell(parent, name, text = "") {
  const span = document.createElement("span");
  span.className = name;
  span.textContent = text;
  parent.append(span);
  return span;
}

function showClassUnderPointer() {
  const tooltip = element("tooltip");
  tooltip.hidden = !(pointer && current);
  if (tooltip.hidden) return;
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((pointer.x - box.left) / box.width) * canvas.width);
  const y = Math.floor(((pointer.y - box.top) / box.height) * canvas.height);
  const id = current.ids[Math.min(canvas.height - 1, y) * canvas.width + Math.min(canvas.width - 1, x)];
  const one = data.classes.find((each) => each.id === id);
  tooltip.replaceChildren();
  if (one) cell(tooltip, "swatch").style.background = `rgb(${one.color.join(" ")})`;
  cell(tooltip, "name", one ? one.name : "other");
  const stage = element("stage").getBoundingClientRect();
  const left = pointer.x - stage.left + 14;
  tooltip.style.left = `${Math.max(0, Math.min(left, stage.width - tooltip.offsetWidth - 4))}px`;
  tooltip.style.top = `${Math.max(0, pointer.y - stage.top - 32)}px`;
}
