import type { Json } from '../../protocols/ids.ts'

/** Where results go: people get text, programs get JSON, never both on stdout. */
export class Output {
  readonly json: boolean
  readonly #tty: boolean
  #progressShown = false

  constructor(json: boolean) {
    this.json = json
    this.#tty = process.stderr.isTTY === true && !json
  }

  /** The result of a command: `human` is called only when a person reads it. */
  result(value: unknown, human: () => string): void {
    this.#clear()
    process.stdout.write(this.json ? `${JSON.stringify(value)}\n` : `${human()}\n`)
  }

  /** One of several lines while work goes on; in JSON mode one object a line. */
  line(value: unknown, human: () => string): void {
    this.result(value, human)
  }

  note(message: string): void {
    if (this.json) return
    this.#clear()
    process.stderr.write(`${message}\n`)
  }

  /** Bytes done of a total, with rate and time left, on a terminal only. */
  progress(what: string, doneBytes: number, totalBytes: number, bytesPerSecond: number): void {
    if (!this.#tty) return
    const width = 24
    const part = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes)
    const filled = Math.round(part * width)
    const left = bytesPerSecond > 0 ? `${Math.ceil((totalBytes - doneBytes) / bytesPerSecond)} s left` : ''
    process.stderr.write(`\r\x1b[K${what} [${'█'.repeat(filled)}${' '.repeat(width - filled)}] ${bytes(doneBytes)} of ${bytes(totalBytes)}  ${bytes(bytesPerSecond)}/s  ${left}`)
    this.#progressShown = true
  }

  #clear(): void {
    if (this.#progressShown) process.stderr.write('\r\x1b[K')
    this.#progressShown = false
  }
}

export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = count
  let unit = 0
  while (value >= 1_024 && unit < units.length - 1) {
    value /= 1_024
    unit += 1
  }
  return `${unit === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`
}

/** Columns padded to their widest cell; the last one runs free. */
export function table(headings: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  if (rows.length === 0) return '(none)'
  const all = [headings, ...rows.map(row => row.map(String))]
  const widths = headings.map((_, column) => Math.max(...all.map(row => [...(row[column] ?? '')].length)))
  return all.map(row => row.map((cell, column) => (column === row.length - 1 ? cell : cell + ' '.repeat((widths[column] ?? 0) - [...cell].length))).join('  ').trimEnd()).join('\n')
}

export function shortId(peer: string): string {
  return peer.length > 14 ? `…${peer.slice(-8)}` : peer
}

/** A text with what to be warned of under it. */
export function warned(warnings: readonly string[], text: string): string {
  return [text, ...warnings.map(warning => `warning: ${warning}`)].join('\n')
}

export function pretty(value: Json): string {
  return JSON.stringify(value, null, 2)
}
