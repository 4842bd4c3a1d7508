// Replaces the picture of each new slider by its SVG and one range input a parameter. What differs between positions
// carries data-frames, the numbers of the positions that show it; the rest of the SVG stands still.
for (const box of document.querySelectorAll(".lesson-slider")) {
  if (box.made) continue; // each slider brings this script. A page that was saved keeps no such mark, and is made anew
  box.made = true;
  const { svg, frames, parameters } = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
  const rows = [...box.querySelectorAll("label")]; // of a saved page: its inputs say where they stood
  const saved = rows.map((row) => row.querySelector("input").getAttribute("value"));
  for (const row of rows) row.remove();
  const still = box.querySelector("img, svg");
  still.insertAdjacentHTML("afterend", svg);
  const figure = still.nextElementSibling;
  still.remove();

  const parts = Array.from({ length: frames }, () => []);
  for (const part of figure.querySelectorAll("[data-frames]")) {
    part.setAttribute("display", "none");
    for (const k of part.dataset.frames.split(" ")) parts[k].push(part);
  }
  let shown = [];
  const inputs = [];
  const update = () => {
    const k = inputs.reduce((k, input, i) => k * parameters[i].values.length + input.valueAsNumber, 0);
    for (const part of shown) part.setAttribute("display", "none");
    shown = parts[k];
    for (const part of shown) part.removeAttribute("display");
  };
  for (const [i, { label, values, start }] of parameters.entries()) {
    const row = document.createElement("label");
    const name = document.createElement("span");
    const input = document.createElement("input");
    const value = document.createElement("span");
    const say = () => {
      value.textContent = values[input.value];
      input.setAttribute("aria-valuetext", values[input.value]);
      input.setAttribute("value", input.value); // what a saved page keeps
    };
    name.textContent = label;
    // Off: after Back or a reload the browser would move the thumb, and tell nobody.
    Object.assign(input, { type: "range", autocomplete: "off", min: 0, max: values.length - 1, step: 1 });
    input.value = saved[i] ?? start;
    input.setAttribute("aria-label", label); // the row's text would name it by its value, too
    value.setAttribute("aria-hidden", "true"); // aria-valuetext says it
    input.addEventListener("input", () => (say(), update()));
    row.append(name, input, value);
    figure.before(row);
    inputs.push(input);
    say();
  }
  update();
}
