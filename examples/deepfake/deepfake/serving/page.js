// Sends the chosen file to the server of app.py and shows its answer. Texts are set as text, never as HTML.
"use strict";

const find = (id) => document.getElementById(id);
const drop = find("drop");
const input = find("file");
let busy = false;

function show(id, visible) {
  find(id).hidden = !visible;
}

function fail(text) {
  find("error").textContent = text;
  show("error", true);
}

function present(answer) {
  find("answer").className = answer.prediction;
  find("name").textContent = answer.name;
  find("score").textContent = answer.shown_probability;
  find("level").style.width = `${100 * answer.fake_probability}%`;
  find("words").textContent = answer.words;
  find("picture").src = answer.picture;
  find("heat").src = answer.heat;
  show("curve-figure", answer.curve !== null);
  find("curve").src = answer.curve ?? "data:,";
  show("answer", true);
}

async function ask(file) {
  const limit = Number(input.dataset.bytes);
  if (file.size > limit) { // refused by the server too, but a browser then often shows no answer
    return fail(`${file.name}: larger than ${input.dataset.megabytes} MB, the most this page takes (predict.py takes any)`);
  }
  const query = new URLSearchParams({ name: file.name, crop: find("crop").checked ? "none" : "face" });
  const headers = { "Content-Type": "application/octet-stream" };
  const response = await fetch(`answer?${query}`, { method: "POST", headers, body: file });
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  if (!isJson) {
    return fail(`The server failed (${response.status}): its terminal says why.`);
  }
  const answer = await response.json();
  return response.ok ? present(answer) : fail(answer.error);
}

async function take(file) {
  if (!file || busy) {
    return fail(busy ? "One file at a time: please wait for the answer." : "What you dropped is not a file.");
  }
  busy = true;
  show("answer", false);
  show("error", false);
  drop.classList.add("busy");
  find("status").textContent = `Looking at ${file.name} ...`;
  try {
    await ask(file);
  } catch {
    fail("No answer: is app.py still running? Is the file still there?");
  } finally {
    find("status").textContent = "";
    drop.classList.remove("busy");
    input.value = ""; // so that the same file can be chosen again
    busy = false;
  }
}

input.addEventListener("change", () => input.files.length && take(input.files[0]));
for (const [event, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(event, (moved) => {
    moved.preventDefault(); // the browser would open the file
    drop.classList.toggle("over", over);
  });
}
document.addEventListener("drop", (dropped) => take(dropped.dataTransfer.files[0]));
