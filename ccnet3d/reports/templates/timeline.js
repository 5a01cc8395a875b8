"use strict";

// The two charts under the picture, one column per mask. If masks outnumber pixels, a column shows the mean of its
// masks' shares and the maximum of their changes, so that one bad frame among thousands stays visible.
function makeTimeline(data, hidden) {
  const count = () => data.numbers.length; // grows while a video is segmented
  const element = (id) => document.getElementById(id);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const round = (share) => `${Number((share * 100).toPrecision(2))}%`;
  const percent = (share) => (share >= 0.01 ? `${(share * 100).toFixed(1)}%` : round(share));

  function prepare(canvas) {
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
    return canvas.getContext("2d");
  }

  // Call use(left, right, first, end) for each column. Columns are whole pixels, so that no seams show between them.
  function forColumns(width, use) {
    const columns = Math.min(count(), width);
    for (let c = 0; c < columns; c++) {
      const first = Math.floor((c * count()) / columns);
      const end = Math.max(first + 1, Math.floor(((c + 1) * count()) / columns));
      use(Math.round((c * width) / columns), Math.round(((c + 1) * width) / columns), first, end);
    }
  }

  function drawShares() {
    const canvas = element("shares");
    const context = prepare(canvas);
    const { width, height } = canvas;
    forColumns(width, (left, right, first, end) => {
      let sum = 0;
      data.classes.forEach((one, c) => {
        let share = 0;
        for (let i = first; i < end; i++) share += data.shares[i][c] / (end - first);
        const top = Math.round(height * (1 - sum - share));
        context.fillStyle = `rgb(${one.color.join(" ")})`;
        context.globalAlpha = hidden.has(one.id) ? 0.15 : 1;
        context.fillRect(left, top, right - left, Math.round(height * (1 - sum)) - top);
        sum += share;
      });
    });
  }

  // Return the end of the scale and whether values exceed it: outliers, such as cuts of the video, do.
  function scaleTop() {
    const values = data.change.filter((value) => value !== null).sort((a, b) => a - b);
    const most = values.length ? values[values.length - 1] : 0;
    const usual = values.length ? values[Math.floor(0.97 * (values.length - 1))] : 0;
    const target = usual > 0 && most > 4 * usual ? 1.5 * usual : most;
    if (!(target > 0)) return [0.01, false];
    const unit = 10 ** Math.floor(Math.log10(target));
    const top = Math.min(1, unit * [1, 1.5, 2, 3, 5, 7.5, 10].find((step) => step * unit >= target * 0.9999));
    return [top, most > top];
  }

  function drawChanges() {
    const canvas = element("changes");
    const context = prepare(canvas);
    const { width, height } = canvas;
    const [top, clipped] = scaleTop();
    element("scale").textContent = `scale: 0 to ${round(top)}${clipped ? ", higher values are clipped" : ""}`;
    const colors = [color("--change"), color("--flicker")];
    context.fillStyle = color("--line");
    context.fillRect(0, Math.round(height / 2), width, 1);
    forColumns(width, (left, right, first, end) => {
      [data.change, data.flicker].forEach((values, series) => {
        let value = 0;
        for (let i = first; i < end; i++) value = Math.max(value, values[i] ?? 0);
        // A value above 0 is at least one pixel high.
        const bar = value > 0 ? Math.max(1, Math.round(height * Math.min(1, value / top))) : 0;
        const gap = right - left > 6 ? 1 : 0;
        context.fillStyle = colors[series];
        context.fillRect(left, height - bar, right - left - gap, bar);
      });
    });
  }

  // Draw a tick at every 1, 2, 5, 10, 20, ... masks, labeled with its frame.
  function drawTicks() {
    const ticks = element("ticks");
    const most = Math.max(2, Math.floor(ticks.clientWidth / 90));
    const step = [1, 2, 5, 10, 20, 50].flatMap((n) => [n, n * 100, n * 10000]).sort((a, b) => a - b)
      .find((n) => count() / n <= most) ?? count();
    ticks.replaceChildren();
    for (let i = 0; i < count(); i += step) {
      const tick = document.createElement("span");
      tick.textContent = i ? data.numbers[i] : `frame ${data.numbers[i]}`;
      tick.style.left = `${((i + 0.5) / count()) * 100}%`;
      if (!i) tick.style.transform = "none";
      if (!i) tick.style.left = "0";
      if (i && (1 - (i + 0.5) / count()) * ticks.clientWidth < 22) continue; // its label would be cut off
      ticks.append(tick);
    }
  }

  function draw() {
    drawShares();
    drawChanges();
    drawTicks();
  }

  function moveCursor(mask) {
    element("cursor").style.left = `${((mask + 0.5) / count()) * 100}%`;
    for (const [id, values] of [["change-now", data.change], ["flicker-now", data.flicker]]) {
      element(id).textContent = values[mask] === null ? "\u2013" : percent(values[mask]);
    }
  }

  // Call seek(mask) when the pointer is pressed and while it is dragged.
  function onSeek(seek) {
    const timeline = element("timeline");
    const follow = (event) => {
      const box = timeline.getBoundingClientRect();
      const mask = Math.floor(((event.clientX - box.left) / box.width) * count());
      seek(Math.max(0, Math.min(count() - 1, mask)));
    };
    timeline.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      timeline.setPointerCapture(event.pointerId);
      follow(event);
    });
    timeline.addEventListener("pointermove", (event) => {
      if (timeline.hasPointerCapture(event.pointerId)) follow(event);
    });
  }

  new ResizeObserver(draw).observe(element("timeline"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return { draw: drawShares, drawAll: draw, moveCursor, onSeek };
}
