/** `text` with its middle left out where it is longer than `most` characters: errors begin with where they arose and end with what is wrong. */
export function bothEnds(text: string, most: number): string {
  if (text.length <= most) return text
  const end = Math.floor((most - 1) / 2)
  return `${text.slice(0, most - 1 - end)}…${text.slice(-end)}`
}
