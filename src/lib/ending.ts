/** Where the signs that `is` matches, each a single one, begin at the end of `text`. A regular expression for all of them would be tried at every place of the text. */
export function endingFrom(text: string, is: RegExp): number {
  let from = text.length
  while (from > 0 && is.test(text[from - 1]!)) from -= 1
  return from
}
