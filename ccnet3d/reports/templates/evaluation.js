"use strict";

// Show the frame and values under the pointer of a chart. Everything else on the page works without this script.
for (const chart of document.querySelectorAll(".chart")) {
  const { x, lines } = JSON.parse(chart.dataset.lines);
  const [plot, cursor, output] = [".plot", ".cursor", "output"].map((part) => chart.querySelector(part));
  const span = Math.max(1, x[x.length - 1] - x[0]);

  function show(event) {
    const box = plot.getBoundingClientRect();
    const pointed = x[0] + (span * (event.clientX - box.left)) / box.width;
    let nearest = 0;
    x.forEach((number, i) => {
      if (Math.abs(number - pointed) < Math.abs(x[nearest] - pointed)) nearest = i;
    });
    cursor.style.left = `${(100 * (x[nearest] - x[0])) / span}%`;
    cursor.hidden = false;
    const values = lines.map(({ name, values }) => {
      const value = values[nearest];
      return `${name} ${value === null ? "\u2013" : `${(100 * value).toFixed(1)} %`}`;
    });
    output.textContent = `frame ${x[nearest]}: ${values.join(", ")}`;
  }

  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => {
    cursor.hidden = true;
    output.textContent = "";
  });
}
