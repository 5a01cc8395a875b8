// Segment a dropped file and show its masks while they arrive. k is the index of a frame among those received.
const root = document.documentElement;
const element = (id) => document.getElementById(id);
const data = { numbers: [], seconds: [], shares: [], change: [], flicker: [], classes: [] };
const hidden = new Set(); // ids of the hidden classes
const received = []; // { mask, picture } of each frame, in Base64
const canvas = element("picture");
const context = canvas.getContext("2d");
const overlay = document.createElement("canvas");
const overlayContext = overlay.getContext("2d");
const timeline = makeTimeline(data, hidden);
const DEFAULT_FRAMES_PER_SECOND = 25;
let opacity = 0.5;
let requested = -1; // the frame to show
let painted = -1; // the frame on the screen
let current = null; // { image, ids, width, height } of the painted one
let showing = false;
let newest = true; // show each frame when it arrives
let pointer = null;
let sending = null; // the AbortController of the request

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Return { width, height, ids } of a palette PNG. Not drawn and read back: some browsers alter what a script reads from a
// picture, and an id off by one is another class.
async function readMask(text) {
  const bytes = bytesOf(text);
  const view = new DataView(bytes.buffer);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  if (bytes[24] !== 8 || bytes[25] !== 3) throw new Error("the mask is not a palette image of 8 bits");
  const parts = [];
  for (let at = 8; at < bytes.length; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x49444154) parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at))); // IDAT
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  const ids = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (width + 1)];
    const from = y * (width + 1) + 1;
    const to = y * width;
    if (filter === 0) {
      ids.set(rows.subarray(from, from + width), to);
      continue;
    }
    for (let x = 0; x < width; x++) {
      const left = x ? ids[to + x - 1] : 0;
      const up = y ? ids[to + x - width] : 0;
      const corner = x && y ? ids[to + x - width - 1] : 0;
      ids[to + x] = rows[from + x] + [0, left, up, (left + up) >> 1, nearestOf(left, up, corner)][filter];
    }
  }
  return { width, height, ids };
}

// The predictor of Paeth (PNG specification, section 9.4).
function nearestOf(left, up, corner) {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

async function decode(k) {
  const image = new Image();
  image.src = `data:image/jpeg;base64,${received[k].picture}`;
  const [mask] = await Promise.all([readMask(received[k].mask), image.decode()]);
  return { image, ...mask };
}

// Painting.
function paint() {
  if (!current) return;
  const { image, ids, width, height } = current;
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [overlay.width, overlay.height] = [width, height];
    canvas.style.setProperty("--aspect", width / height);
  }
  const table = new Uint8ClampedArray(4 * 256); // RGBA of each id; hidden classes and unknown ids stay transparent
  for (const one of data.classes) if (!hidden.has(one.id)) table.set([...one.color, 255], 4 * one.id);
  const colors = new Uint32Array(table.buffer);
  const layer = overlayContext.createImageData(width, height);
  const pixels = new Uint32Array(layer.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[ids[i]];
  overlayContext.putImageData(layer, 0, 0);
  context.globalAlpha = 1;
  context.drawImage(image, 0, 0, width, height);
  context.globalAlpha = opacity;
  context.drawImage(overlay, 0, 0);
  showClassUnderPointer();
}

// Show the requested frame; those that are replaced while another one is decoded are skipped.
async function show() {
  if (showing) return;
  showing = true;
  while (painted !== requested) {
    const k = requested;
    try {
      current = await decode(k);
      paint();
    } catch (error) {
      fail(`Frame ${data.numbers[k]} cannot be shown: ${error.message}`);
    }
    painted = k;
    root.dataset.frame = data.numbers[k];
  }
  showing = false;
}

const countOf = (masks) => `${masks} ${masks === 1 ? "mask" : "masks"}`;
const percent = (share) => (share > 0 && share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);

function go(k) {
  const last = received.length - 1;
  if (last < 0) return;
  requested = Math.max(0, Math.min(last, k));
  const seconds = data.seconds[requested];
  element("scrubber").value = requested;
  element("position").textContent =
    `frame ${data.numbers[requested]}${seconds === null ? "" : `, ${seconds.toFixed(2)} s`}`;
  data.classes.forEach((one, c) => { one.now.textContent = percent(data.shares[requested][c]); });
  timeline.moveCursor(requested);
  show();
}

// The user chooses a frame: no longer the newest one, except at the end.
function jump(k) {
  newest = k >= received.length - 1;
  go(k);
  clock = timeOf(requested);
}

// Playback follows the video's clock.
let playing = false;
let clock = 0;
let tickedAt = 0;
const timeOf = (k) => data.seconds[k] ?? data.numbers[k] / DEFAULT_FRAMES_PER_SECOND;

function tick(now) {
  if (!playing) return;
  clock += Math.min(0.25, (now - tickedAt) / 1000);
  tickedAt = now;
  let k = requested;
  while (k < received.length - 1 && timeOf(k + 1) <= clock) k++;
  if (k !== requested) go(k);
  if (k === received.length - 1) play(false);
  else requestAnimationFrame(tick);
}

function play(on) {
  if (on === playing || !received.length) return;
  playing = on;
  root.dataset.playing = on;
  element("play").setAttribute("aria-label", on ? "Pause" : "Play");
  if (!on) return;
  if (requested === received.length - 1) go(0);
  newest = false;
  clock = timeOf(requested);
  tickedAt = performance.now();
  requestAnimationFrame(tick);
}

// Classes.
function listClasses() {
  for (const one of data.classes) {
    const item = document.createElement("li");
    const label = document.createElement("label");
    label.className = "class";
    one.box = document.createElement("input");
    one.box.type = "checkbox";
    one.box.checked = true;
    label.append(one.box);
    cell(label, "swatch").style.background = `rgb(${one.color.join(" ")})`;
    cell(label, "name", one.name).title = one.name;
    one.now = cell(label, "now");
    one.mean = cell(label, "mean");
    one.box.addEventListener("change", () => {
      setHidden(data.classes.filter((each) => !each.box.checked).map((each) => each.id));
    });
    item.append(label);
    element("classes").append(item);
  }
}

function setHidden(ids) {
  hidden.clear();
  for (const id of ids) hidden.add(id);
  for (const one of data.classes) one.box.checked = !hidden.has(one.id);
  timeline.draw();
  paint();
}

// Receiving.
let previous = []; // ids of the last two masks

async function addFrame(line) {
  const { ids } = await readMask(line.mask);
  const [before, last] = previous;
  const k = received.length;
  data.change.push(null);
  data.flicker.push(null);
  if (last && last.length === ids.length) {
    let changed = 0;
    let reverted = 0;
    const comparable = before && before.length === ids.length;
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] === last[i]) continue;
      changed++;
      if (comparable && ids[i] === before[i]) reverted++;
    }
    data.change[k] = changed / ids.length;
    if (comparable) data.flicker[k - 1] = reverted / ids.length;
  }
  previous = [last, ids];
  received.push({ mask: line.mask, picture: line.picture });
  data.numbers.push(line.frame);
  data.seconds.push(line.pts_seconds);
  data.shares.push(data.classes.map((one) => line.shares[one.name] ?? 0));
  if (k === 0) start();
  element("scrubber").max = k;
  data.classes.forEach((one, c) => {
    one.sum = (one.sum ?? 0) + data.shares[k][c];
    one.mean.textContent = percent(one.sum / (k + 1));
  });
  timeline.drawAll();
  if (newest && !playing) go(k);
  else timeline.moveCursor(requested);
  const total = line.expected_frames;
  element("progress").textContent = `${countOf(received.length)}${total ? ` of ${total}` : ""}`;
  if (total) {
    element("bar").className = "";
    element("done").style.width = `${Math.min(100, (100 * received.length) / total)}%`;
  }
  root.dataset.received = received.length;
}

// Show the parts of the page that need a frame.
function start() {
  element("drop").hidden = true;
  canvas.hidden = false;
  element("charts").hidden = false;
  for (const id of ["play", "scrubber"]) element(id).disabled = false;
}

function clear() {
  play(false);
  for (const values of [data.numbers, data.seconds, data.shares, data.change, data.flicker, received]) values.length = 0;
  [previous, current, requested, painted, newest] = [[], null, -1, -1, true];
  for (const one of data.classes) one.sum = 0;
  for (const id of ["problem", "charts", "downloads", "another"]) element(id).hidden = true;
  for (const id of ["play", "scrubber"]) element(id).disabled = true;
  for (const one of data.classes) one.now.textContent = one.mean.textContent = "";
  element("position").textContent = element("progress").textContent = "";
  element("drop").hidden = false;
  canvas.hidden = true;
  delete root.dataset.frame;
  delete root.dataset.received;
}

function fail(text) {
  element("problem").textContent = text;
  element("problem").hidden = false;
}

function finish(line) {
  element("progress").textContent = `${countOf(line.frames)}, complete`;
  for (const name of ["masks", "overlay"]) element(name).href = line.downloads[name];
  element("downloads").hidden = false;
  for (const warning of line.summary.warnings) fail(warning);
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [];
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const pieces = read.value.split("\n");
    while (pieces.length > 1) {
      yield JSON.parse([...parts, pieces.shift()].join(""));
      parts = [];
    }
    parts.push(pieces[0]);
  }
}

async function segment(file) {
  if (sending) return;
  clear();
  sending = new AbortController();
  root.dataset.state = "busy";
  element("facts").textContent = file.name;
  element("progress").textContent = "Sending the file and waiting for the first mask";
  element("bar").hidden = false;
  element("bar").className = "unknown";
  element("done").style.width = "";
  element("stop").hidden = false;
  let ended = false;
  try {
    const query = new URLSearchParams({ pictures: true, keep: true });
    if (element("causal").checked) query.set("causal", true);
    const answer = await fetch(`segment?${query}`, {
      method: "POST",
      body: file,
      headers: { "content-type": "application/octet-stream" },
      signal: sending.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    for await (const line of linesOf(answer.body)) {
      if (line.event === "frame") await addFrame(line);
      else if (line.event === "error") throw new Error(line.detail);
      else finish(line);
      ended = line.event === "done";
    }
    if (!ended) throw new Error("the connection to the server was lost");
  } catch (error) {
    if (error.name === "AbortError") element("progress").textContent = `Stopped after ${countOf(received.length)}`;
    else fail(error.message);
    if (error.name !== "AbortError" && !received.length) element("progress").textContent = "";
  }
  sending = null;
  root.dataset.state = "idle";
  for (const id of ["bar", "stop"]) element(id).hidden = true;
  element("another").hidden = !received.length;
}

for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    root.classList.toggle("dragging", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) segment(event.dataTransfer.files[0]);
  });
}
element("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) segment(file);
  event.target.value = "";
});
element("another").addEventListener("click", () => element("file").click());
element("stop").addEventListener("click", () => sending?.abort());
element("play").addEventListener("click", () => play(!playing));
element("scrubber").addEventListener("input", (event) => jump(Number(event.target.value)));
element("opacity").addEventListener("input", (event) => {
  opacity = Number(event.target.value);
  element("opacity-text").textContent = `${Math.round(opacity * 100)}%`;
  paint();
});
element("all").addEventListener("click", () => setHidden([]));
element("none").addEventListener("click", () => setHidden(data.classes.map((one) => one.id)));
canvas.addEventListener("pointermove", (event) => {
  pointer = { x: event.clientX, y: event.clientY };
  showClassUnderPointer();
});
canvas.addEventListener("pointerleave", () => {
  pointer = null;
  showClassUnderPointer();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || ["BUTTON", "INPUT", "A"].includes(event.target.tagName)) return;
  const keys = { " ": () => play(!playing), ArrowLeft: () => jump(requested - 1), ArrowRight: () => jump(requested + 1) };
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});
timeline.onSeek((k) => jump(k));

async function prepare() {
  const model = await (await fetch("classes")).json();
  data.classes.push(...model.classes);
  listClasses();
  root.dataset.state = "idle";
}
prepare().catch((error) => fail(error.message));
