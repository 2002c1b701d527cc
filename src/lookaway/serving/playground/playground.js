// The playground: asks this server with and without a policy, and shows where the visual tokens left.
"use strict";

const $ = id => document.getElementById(id);
const MOST = 1600;           // pixels of the longer side that are sent; larger pictures are scaled down here
const MOST_BYTES = 4e6;
let picture = null;          // data URL of the chosen picture
let running = null;          // AbortController of the requests under way
let shown = null;            // {kept, layers, visual, grid, image} of the latest answer with a policy
let timer = null;            // of the animation

// ---- the picture ----------------------------------------------------------------------------------------------------

function readAsDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

async function take(blob) {
  fail("");
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return fail("This file cannot be read as a picture.");
  }
  const scale = Math.min(1, MOST / Math.max(bitmap.width, bitmap.height));
  if (scale < 1 || blob.size > MOST_BYTES) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    picture = canvas.toDataURL("image/jpeg", 0.92);
  } else {
    picture = await readAsDataUrl(blob);
  }
  $("preview").src = picture;
  $("preview").alt = "The chosen picture";
  $("preview").hidden = false;
  $("hint").textContent = "Drop or paste another, or choose:";
}

function drawExample() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 112;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#f4f4f4";
  pen.fillRect(0, 0, 112, 112);
  pen.fillStyle = "#1450c8";
  pen.beginPath();
  pen.arc(62, 50, 26, 0, 2 * Math.PI);
  pen.fill();
  canvas.toBlob(take, "image/png");
}

// ---- asking ---------------------------------------------------------------------------------------------------------

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function headers() {
  const key = $("key").value.trim();
  return {"Content-Type": "application/json", ...(key ? {Authorization: "Bearer " + key} : {})};
}

async function errorOf(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return "The server answered with status " + reply.status + ".";
  }
}

// Ask once; `write(text)` gets the answer as it grows. Returns {usage, first}: what it cost, milliseconds to the first text.
async function ask(policy, signal, write) {
  const content = [{type: "image_url", image_url: {url: picture}}, {type: "text", text: $("question").value}];
  const body = {
    messages: [{role: "user", content}], stream: true, stream_options: {include_usage: true},
    max_tokens: Number($("tokens").value) || 48, lookaway: {policy, details: true},
  };
  const began = performance.now();
  const reply = await fetch("v1/chat/completions", {method: "POST", headers: headers(), body: JSON.stringify(body), signal});
  if (!reply.ok) throw new Error(await errorOf(reply));
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", rest = "", usage = null, first = null, complete = false;
  for (;;) {
    const {value, done} = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") { complete = true; continue; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) usage = chunk.usage;
      const piece = chunk.choices.length ? chunk.choices[0].delta.content : "";
      if (piece) {
        if (first === null) first = performance.now() - began;
        text += piece;
        write(text);
      }
    }
  }
  if (!complete) throw new Error("The answer was cut off.");
  if (!text) write("(an empty answer)");
  return {usage, first};
}

async function run(event) {
  event.preventDefault();
  if (running) return;
  if (!picture) return fail("Choose a picture first.");
  fail("");
  pause();
  running = new AbortController();
  $("ask").disabled = true;
  $("stop").disabled = false;
  const policy = $("policy").value, compare = $("compare").checked && policy !== "off";
  $("with-title").textContent = policy === "off" ? "Without a policy" : "With " + policy;
  $("with-column").textContent = policy;
  $("with-answer").textContent = $("without-answer").textContent = "";
  $("answers").hidden = false;
  $("without").hidden = !compare;
  $("numbers").hidden = $("layers").hidden = true;
  try {
    const one = await ask(policy, running.signal, text => { $("with-answer").textContent = text; });
    await showLayers(one.usage.lookaway);
    showNumbers(one, null);
    if (compare) {
      // One after the other, so that neither slows the other down.
      const other = await ask("off", running.signal, text => { $("without-answer").textContent = text; });
      showNumbers(one, other);
    }
  } catch (error) {
    fail(error.name === "AbortError" ? "Stopped." : error.message);
  } finally {
    running = null;
    $("ask").disabled = false;
    $("stop").disabled = true;
  }
}

// ---- what it cost ---------------------------------------------------------------------------------------------------

const percent = share => Math.round(100 * share) + " %";
const bytes = n => n < 1e6 ? (n / 1e3).toFixed(0) + " kB" : (n / 1e6).toFixed(1) + " MB";
const ROWS = [
  ["visual tokens in the mean layer", run => run.usage.lookaway.mean_visual_tokens.toFixed(0)],
  ["looked away before layer", run => run.usage.lookaway.exit_layer ?? "never"],
  ["prefill FLOPs of the decoder", run => percent(run.usage.lookaway.prefill_flops_share)],
  ["KV cache after the prefill", run => bytes(run.usage.lookaway.kv_bytes)],
  ["prefill, milliseconds", run => Math.round(1000 * run.usage.lookaway.prefill_seconds)],
  ["first text, milliseconds", run => run.first === null ? "–" : Math.round(run.first)],
  ["tokens of prompt and answer", run => run.usage.prompt_tokens + " + " + run.usage.completion_tokens],
];

function showNumbers(one, other) {
  $("rows").replaceChildren(...ROWS.map(([name, value]) => {
    const row = document.createElement("tr");
    for (const [kind, text] of [["th", name], ["td", value(one)], ["td", other ? value(other) : "–"]]) {
      const cell = document.createElement(kind);
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  }));
  $("numbers").hidden = false;
}

// ---- where it looked ------------------------------------------------------------------------------------------------

// Numbers of the visual tokens that a layer kept; null: all.
function keptAt(layer) {
  let found = null;
  for (const part of shown.kept) if (part.layer <= layer) found = part.kept;
  return found;
}

const countAt = layer => { const kept = keptAt(layer); return kept === null ? shown.visual : kept.length; };

function gridOf(saved) {
  if (saved.pictures.length !== 1 || !saved.aligned) return null;
  const [tokens, grid] = saved.pictures[0];
  if (grid) return grid;
  const side = Math.round(Math.sqrt(tokens));
  return side * side === tokens ? [side, side] : null;
}

async function showLayers(saved) {
  const image = new Image();
  image.src = saved.picture ? "data:image/png;base64," + saved.picture : picture;
  await image.decode();
  shown = {kept: saved.kept, layers: saved.num_layers, visual: saved.visual_tokens, grid: gridOf(saved), image};
  $("layer").max = shown.layers - 1;
  const away = saved.exit_layer, last = countAt(shown.layers - 1);
  $("verdict").textContent = away !== null ? "Looked away before layer " + away + " of " + shown.layers
    : last < shown.visual ? "Kept " + last + " of " + shown.visual + " visual tokens to the end"
    : "Looked at all " + shown.visual + " visual tokens through all " + shown.layers + " layers";
  $("note").textContent = shown.grid ? "Patches whose tokens have left are faded."
    : "This model's tokens do not tile the picture one to one, so only their number is shown.";
  drawBars();
  $("layers").hidden = false;
  $("layer").value = 0;
  showLayer();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    $("layer").value = shown.layers - 1;
    showLayer();
  } else {
    play();
  }
}

function drawBars() {
  const make = (kind, layer, height) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({x: layer + 0.1, y: 1 - height, width: 0.8, height})) bar.setAttribute(name, value);
    if (kind) bar.setAttribute("class", kind);
    return bar;
  };
  $("bars").setAttribute("viewBox", `0 0 ${shown.layers} 1`);
  const layers = [...Array(shown.layers).keys()];
  $("bars").replaceChildren(
    ...layers.map(layer => make("full", layer, 1)),
    ...layers.map(layer => make("", layer, shown.visual ? countAt(layer) / shown.visual : 0)));
}

function showLayer() {
  const layer = Number($("layer").value), kept = keptAt(layer), count = countAt(layer);
  $("layer-text").textContent = layer + ", with " + count + " of " + shown.visual + " visual tokens";
  $("layer").setAttribute("aria-valuetext", $("layer-text").textContent);
  [...$("bars").children].slice(shown.layers).forEach((bar, i) => bar.classList.toggle("now", i === layer));
  const canvas = $("picture"), pen = canvas.getContext("2d");
  canvas.width = 448;
  canvas.height = Math.round(448 * shown.image.naturalHeight / shown.image.naturalWidth);
  pen.imageSmoothingEnabled = shown.image.naturalWidth >= 448;
  pen.drawImage(shown.image, 0, 0, canvas.width, canvas.height);
  if (!shown.grid || kept === null) return;
  const [rows, columns] = shown.grid, stays = new Set(kept);
  const edge = (n, count, size) => Math.round(n * size / count);  // whole pixels: no seams between patches
  pen.fillStyle = "rgba(128, 134, 142, 0.86)";
  for (let i = 0; i < rows * columns; i++) {
    if (stays.has(i)) continue;
    const row = Math.floor(i / columns), column = i % columns;
    const x = edge(column, columns, canvas.width), y = edge(row, rows, canvas.height);
    pen.fillRect(x, y, edge(column + 1, columns, canvas.width) - x, edge(row + 1, rows, canvas.height) - y);
  }
}

function pause() {
  clearInterval(timer);
  timer = null;
  $("play").textContent = "Play";
}

function play() {
  if (Number($("layer").value) >= shown.layers - 1) $("layer").value = 0;
  showLayer();
  $("play").textContent = "Pause";
  clearInterval(timer);
  timer = setInterval(() => {
    $("layer").value = Number($("layer").value) + 1;
    showLayer();
    if (Number($("layer").value) >= shown.layers - 1) pause();
  }, Math.max(60, 3000 / shown.layers));
}

// ---- the page -------------------------------------------------------------------------------------------------------

async function begin() {
  try {
    const reply = await fetch("v1/models", {headers: headers()});
    if (!reply.ok) return fail(await errorOf(reply));
    const model = (await reply.json()).data[0];
    $("model").textContent = model.id;
    $("policy").replaceChildren(...model.lookaway.policies.map(name => new Option(name === "off" ? "off (no policy)" : name, name)));
    $("policy").value = model.lookaway.default;
    fail("");
  } catch (error) {
    fail("The server does not answer: " + error.message);
  }
}

$("choose").addEventListener("click", () => $("file").click());
$("example").addEventListener("click", drawExample);
$("file").addEventListener("change", () => { if ($("file").files.length) take($("file").files[0]); });
$("drop").addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", event => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
addEventListener("paste", event => {
  const file = [...event.clipboardData.files].find(one => one.type.startsWith("image/"));
  if (file) take(file);
});
$("form").addEventListener("submit", run);
$("stop").addEventListener("click", () => { if (running) running.abort(); });
$("key").addEventListener("change", begin);
$("layer").addEventListener("input", () => { pause(); showLayer(); });
$("play").addEventListener("click", () => { if (timer) pause(); else play(); });
begin();
