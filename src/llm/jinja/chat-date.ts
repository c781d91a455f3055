import { TemplateFault } from './values.ts'

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']
const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December']
const DAY_MS = 86_400_000

/** Python's `strftime`, in English. `now`: milliseconds since 1970, of the clock on the wall. Throws for a sign that no prompt should need. */
export function dateText(format: string, now: number): string {
  const days = Math.floor(now / DAY_MS)
  const { year, month, day } = civil(days)
  const seconds = Math.floor((now - days * DAY_MS) / 1000)
  const [hour, minute, second] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  const weekday = (((days + 4) % 7) + 7) % 7
  const two = (value: number): string => String(value).padStart(2, '0')
  const start = daysBefore(year)
  const signs: Readonly<Record<string, () => string>> = {
    Y: () => String(year).padStart(4, '0'), y: () => two(year % 100), m: () => two(month), d: () => two(day), e: () => String(day).padStart(2), '-d': () => String(day), '-m': () => String(month),
    B: () => MONTHS[month - 1] ?? '', b: () => (MONTHS[month - 1] ?? '').slice(0, 3), A: () => DAYS[weekday] ?? '', a: () => (DAYS[weekday] ?? '').slice(0, 3), j: () => String(days - start + 1).padStart(3, '0'), w: () => String(weekday), u: () => String(weekday === 0 ? 7 : weekday),
    H: () => two(hour), '-H': () => String(hour), I: () => two(hour % 12 || 12), '-I': () => String(hour % 12 || 12), M: () => two(minute), S: () => two(second), p: () => (hour < 12 ? 'AM' : 'PM'), f: () => String(Math.floor((now % 1000) * 1000)).padStart(6, '0'),
    F: () => `${year}-${two(month)}-${two(day)}`, T: () => `${two(hour)}:${two(minute)}:${two(second)}`, D: () => `${two(month)}/${two(day)}/${two(year % 100)}`, R: () => `${two(hour)}:${two(minute)}`, Z: () => '', z: () => '', n: () => '\n', t: () => '\t', '%': () => '%',
  }
  return format.replaceAll(/%(-?.)/g, (all, sign: string) => {
    const made = Object.hasOwn(signs, sign) ? signs[sign] : undefined
    if (made === undefined) throw new TemplateFault(`strftime_now: the sign ${all} is not known here`)
    return made()
  })
}

/** Days from 1970 to the first of January of a year. */
function daysBefore(year: number): number {
  const past = year - 1
  return past * 365 + Math.floor(past / 4) - Math.floor(past / 100) + Math.floor(past / 400) - 719_162
}

function civil(days: number): { readonly year: number; readonly month: number; readonly day: number } {
  let year = 1970 + Math.floor(days / 365.2425)
  while (daysBefore(year) > days) year--
  while (daysBefore(year + 1) <= days) year++
  const leap = daysBefore(year + 1) - daysBefore(year) === 366
  const lengths = [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
  let day = days - daysBefore(year)
  let month = 0
  while (day >= (lengths[month] ?? 31)) day -= lengths[month++] ?? 31
  return { year, month: month + 1, day: day + 1 }
}
