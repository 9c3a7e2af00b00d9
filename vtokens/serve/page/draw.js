// Pictures with what was kept of them: dropped patches are dark, the darker the fewer decoder layers saw them.
// What vtokens/core/overlay.py draws, on a canvas.

const DIM = "24, 24, 32", LEAST = 0.14, LONGEST = 768;

/** The picture on a canvas, the part of it that the model saw alone, in the patches that it saw light. */
export const drawn = async (url, kept, label) => {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const { naturalWidth: width, naturalHeight: height } = picture;
  const [left, top, wide, high] = kept?.seen ?? [0, 0, 1, 1];
  const longest = Math.max(wide * width, high * height);
  // Small pictures grow by a whole factor, so that patches stay sharp.
  const scale = longest > LONGEST ? LONGEST / longest : Math.max(1, Math.floor(480 / longest));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(wide * width * scale));
  canvas.height = Math.max(1, Math.round(high * height * scale));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = scale < 1;
  pen.drawImage(picture, left * width, top * height, wide * width, high * height, 0, 0, canvas.width, canvas.height);
  const rows = kept?.light ?? [];
  rows.forEach((row, y) => row.forEach((light, x) => {
    const at = (index, count, size) => Math.ceil((index * size) / count);
    const x0 = at(x, row.length, canvas.width), y0 = at(y, rows.length, canvas.height);
    pen.fillStyle = `rgba(${DIM}, ${(1 - LEAST) * (1 - light)})`;
    pen.fillRect(x0, y0, at(x + 1, row.length, canvas.width) - x0, at(y + 1, rows.length, canvas.height) - y0);
  }));
  return canvas;
};
