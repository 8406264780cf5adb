// What the form does better with a script: the time zone, finding a topic, a preview at once.
"use strict";

(() => {
  // --- A file with papers, as text in the field below it ---------------------------------------

  const LARGEST = 512 * 1024; // octets that are read

  const decoded = (octets) => {
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(octets);
    } catch {
      return new TextDecoder("windows-1252").decode(octets);
    }
  };

  for (const file of document.querySelectorAll("[data-fills]")) {
    const field = document.getElementById(file.dataset.fills);
    file.parentElement.hidden = false;
    file.addEventListener("change", async () => {
      if (!file.files[0]) return;
      const octets = await file.files[0].arrayBuffer();
      const whole = decoded(octets);
      field.value = octets.byteLength > LARGEST ? whole.slice(0, LARGEST) : whole;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  // --- The form --------------------------------------------------------------------------------

  const form = document.getElementById("subscribe");
  if (!form) return;

  const PAUSE = 350; // ms without a key, before a preview is asked for
  const TYPED = ["queries", "query", "name", "papers"];
  const PREVIEWED = [...TYPED, "remove", "topic", "frequency", "max_papers", "breadth"]; // never the address

  // --- The time zone ---------------------------------------------------------------------------

  const zones = form.querySelector("#timezone[data-guess]");
  const guess = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (guess && zones?.value === "UTC") { // not what somebody chose before going back
    zones.value = guess;
    if (zones.value !== guess) zones.add(new Option(guess, guess, true, true), 1);
  }

  // --- Finding a topic -------------------------------------------------------------------------

  const find = form.querySelector("#find");
  const groups = [...form.querySelectorAll(".group")];
  const none = form.querySelector(".none");
  const openBefore = new Map();

  if (find) find.parentElement.hidden = false; // absent if all topics are followed
  find?.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const group of groups) {
      if (!openBefore.has(group)) openBefore.set(group, group.open);
      const name = group.querySelector("summary").textContent.toLowerCase();
      let inGroup = 0;
      for (const tick of group.querySelectorAll(".tick")) {
        const text = `${tick.textContent.toLowerCase()} ${name}`;
        tick.hidden = !words.every((word) => text.includes(word));
        inGroup += !tick.hidden;
      }
      group.hidden = !inGroup;
      group.open = words.length ? true : openBefore.get(group);
      shown += inGroup;
    }
    if (!words.length) openBefore.clear();
    none.hidden = shown > 0;
  });
  find?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault();
  });

  const schedule = form.querySelector("#schedule"); // not on the page of preferences
  const when = ["frequency", "hour", "timezone"].map((id) => form.querySelector(`#${id}`));
  const line = () => {
    const chosen = when.map((field) => field.selectedOptions[0]?.text.trim());
    if (schedule) schedule.textContent = chosen.filter(Boolean).join(", ");
  };
  line();

  const count = () => {
    for (const group of groups) {
      const chosen = group.querySelectorAll(":checked").length;
      const counter = group.querySelector(".count");
      counter.textContent = chosen ? counter.dataset.text.replace("#", chosen) : "";
    }
  };

  // --- The preview -----------------------------------------------------------------------------

  const section = form.querySelector(".preview");
  const result = form.querySelector("#preview-result");
  const ofPapers = form.querySelector("#papers-result"); // not on the page of preferences
  let waiting, asking, shownFor;

  const wanted = () => {
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (PREVIEWED.includes(name)) fields.append(name, value);
    }
    return fields.toString();
  };

  const move = (start) => { // beside the list of papers, with the focus where it was
    const isInside = ofPapers.contains(document.activeElement);
    ofPapers.replaceChildren(...(start ? [start] : []));
    if (isInside) (ofPapers.querySelector("button") ?? ofPapers).focus();
  };

  const preview = async () => {
    const fields = wanted();
    if (fields === shownFor) return;
    asking?.abort();
    asking = new AbortController();
    section.classList.add("busy");
    try {
      const answer = await fetch("/subscribe/preview", {
        method: "POST",
        headers: { "Content-Type": "application/x-www-form-urlencoded" },
        body: fields,
        signal: asking.signal,
      });
      if (answer.ok) shownFor = fields;
      if (!answer.ok && ![413, 429, 503].includes(answer.status)) throw new Error(answer.status);
      result.innerHTML = await answer.text();
      if (answer.ok && ofPapers) move(result.querySelector(".start"));
      section.classList.add("live");
    } catch (error) {
      if (error.name === "AbortError") return;
      section.classList.remove("live"); // the button still works
    }
    section.classList.remove("busy");
  };

  const soon = (delay) => {
    clearTimeout(waiting);
    waiting = setTimeout(preview, delay);
  };

  form.addEventListener("change", (event) => {
    if (event.target.name === "topic") count();
    if (when.includes(event.target)) line();
    if (PREVIEWED.includes(event.target.name)) soon(50);
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[name=adopt]");
    if (!button || !form.dataset.adopts) return; // else the button sends the form
    event.preventDefault();
    button.disabled = true; // a second press adds nothing
    const [label, query] = button.value.split("\n");
    const own = form.querySelector("#queries");
    const lines = own.value.split("\n").filter((line) => line.trim());
    const ticks = [...form.querySelectorAll("[name=topic]:checked")];
    const tick = ticks.find((one) => one.parentNode.textContent.trim() === label);
    const at = lines.findIndex((line) => line.trim().toLowerCase() === label.toLowerCase());
    if (tick) tick.checked = false;
    if (at < 0) lines.push(query);
    else lines[at] = query;
    own.value = lines.join("\n");
    count();
    soon(0);
  });
  form.addEventListener("input", (event) => {
    if (TYPED.includes(event.target.name)) soon(PAUSE);
  });
  section.classList.add("live");
  if (result.querySelector(".rates")) shownFor = wanted(); // came with the page
  else preview();

  // --- Sending ---------------------------------------------------------------------------------

  const summary = document.getElementById("summary"); // where a browser knows no autofocus
  addEventListener("load", () => {
    if (document.activeElement === document.body) summary?.focus();
  });
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault(); // a second press of an impatient thumb
    sent = true;
  });
  addEventListener("pageshow", () => { sent = false; }); // back from the next page
})();
