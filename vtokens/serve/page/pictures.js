// Pictures that somebody drops, pastes, chooses or takes, as the data URLs that are sent.

const LONGEST = 2048, MOST_BYTES = 2 ** 22, PLAIN = new Set(["image/png", "image/jpeg", "image/webp"]);

const read = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

/** The file as it is where a server takes it; large ones and rare kinds as a JPEG of at most 2048 pixels a side. */
const taken = async (file) => {
  let picture;
  try {
    picture = await createImageBitmap(file); // turned as the camera was held
  } catch {
    throw new Error(`${file.name || "This"} cannot be opened as a picture here.`);
  }
  const { width, height } = picture, longest = Math.max(width, height);
  if (PLAIN.has(file.type) && file.size <= MOST_BYTES && longest <= LONGEST) {
    picture.close();
    return { url: await read(file), name: file.name || "picture", width, height };
  }
  const scale = Math.min(1, LONGEST / longest);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; // what is transparent
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  return { url: canvas.toDataURL("image/jpeg", 0.92), name: file.name || "picture", width: canvas.width, height: canvas.height };
};

/** The list of pictures, filled from all sides; `told` is called with what could not be opened, "" if all could. */
export const pictures = ({ list, drop, inputs, told }) => {
  const held = [];

  const show = () => {
    list.replaceChildren(...held.map((one) => {
      const item = document.createElement("li"), image = new Image(), button = document.createElement("button");
      image.src = one.url;
      image.alt = `${one.name}, ${one.width} by ${one.height} pixels`;
      button.type = "button";
      button.className = "button";
      button.textContent = "Remove";
      button.setAttribute("aria-label", `Remove ${one.name}`);
      button.addEventListener("click", () => {
        held.splice(held.indexOf(one), 1);
        show();
        (list.querySelector("button") ?? inputs[0]).focus();
      });
      item.append(image, button);
      return item;
    }));
    list.hidden = !held.length;
  };

  const add = async (files) => {
    const problems = [];
    for (const file of files) {
      try { held.push(await taken(file)); } catch (error) { problems.push(error.message); }
    }
    show();
    told(problems.join(" "));
  };

  for (const input of inputs) {
    input.addEventListener("change", async () => { await add([...input.files]); input.value = ""; });
  }
  const files = (transfer) => [...(transfer?.files ?? [])];
  addEventListener("paste", (event) => {
    if (files(event.clipboardData).length) { event.preventDefault(); add(files(event.clipboardData)); }
  });
  // Anywhere on the page: a picture that misses the field would otherwise replace the page.
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(files(event.dataTransfer));
  });
  return { held, add, clear() { held.length = 0; } };
};
