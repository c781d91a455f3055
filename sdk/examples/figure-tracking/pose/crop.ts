/** What the pose model looks at: 16 × 16 pixels, 0 … 1. */
export const CROP = 16
/** Hands may reach out of a box. */
const MARGIN = 1.25

/** The square around a box, resampled; `left`, `top` and `side` say where in the frame it lies, in pixels. */
export function crop(image: ArrayLike<number>, width: number, box: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }): { readonly pixels: Float32Array; readonly left: number; readonly top: number; readonly side: number } {
  const side = Math.max(box.w, box.h) * MARGIN
  const [left, top] = [box.x - side / 2, box.y - side / 2]
  const pixels = new Float32Array(CROP * CROP)
  for (let row = 0; row < CROP; row += 1) for (let column = 0; column < CROP; column += 1) {
    pixels[row * CROP + column] = bilinear(image, width, left + ((column + 0.5) * side) / CROP - 0.5, top + ((row + 0.5) * side) / CROP - 0.5) / 255
  }
  return { pixels, left, top, side }
}

function bilinear(image: ArrayLike<number>, width: number, x: number, y: number): number {
  const [x0, y0] = [Math.floor(x), Math.floor(y)]
  const [fx, fy] = [x - x0, y - y0]
  const height = image.length / width
  const at = (column: number, row: number): number => image[Math.max(0, Math.min(height - 1, row)) * width + Math.max(0, Math.min(width - 1, column))] ?? 0
  return (at(x0, y0) * (1 - fx) + at(x0 + 1, y0) * fx) * (1 - fy) + (at(x0, y0 + 1) * (1 - fx) + at(x0 + 1, y0 + 1) * fx) * fy
}
