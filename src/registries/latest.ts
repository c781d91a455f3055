/** Picks the newest of the URIs of one name: `{name}:{version}-{tag}`. Undefined when there are none. */
export function latest(uris: readonly string[]): string | undefined {
  return uris.reduce<string | undefined>((best, uri) => (best === undefined || compareVersions(versionOf(uri), versionOf(best)) > 0 ? uri : best), undefined)
}

/** `name` when `uri` asks for the newest version (`name` or `name:latest`), else undefined. */
export function asksForLatest(uri: string): string | undefined {
  if (!uri.includes(':')) return uri
  return uri.endsWith(':latest') ? uri.slice(0, -':latest'.length) : undefined
}

/**
 * Orders versions such as `1.10.0-stable`; above zero when `a` is newer. Numbers compare as numbers, the rest as text, a
 * longer version is newer than its own beginning, and the release tag decides last.
 */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [splitTag(a), splitTag(b)]
  return compareParts(left.version, right.version) || compareText(left.tag, right.tag)
}

function compareParts(a: string, b: string): number {
  const [left, right] = [a.split('.'), b.split('.')]
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const [x, y] = [left[i], right[i]]
    if (x === undefined) return -1
    if (y === undefined) return 1
    const order = /^\d+$/.test(x) && /^\d+$/.test(y) ? Number(x) - Number(y) : compareText(x, y)
    if (order !== 0) return order
  }
  return 0
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function versionOf(uri: string): string {
  return uri.slice(uri.lastIndexOf(':') + 1)
}

function splitTag(version: string): { readonly version: string; readonly tag: string } {
  const hyphen = version.lastIndexOf('-')
  return hyphen < 0 ? { version, tag: '' } : { version: version.slice(0, hyphen), tag: version.slice(hyphen + 1) }
}
