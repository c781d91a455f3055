/** The value itself, which nobody can change any more, whatever is inside it; only bytes stay as they are. For what many are given. */
export function frozen<T>(value: T): T {
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value) || Object.isFrozen(value)) return value
  Object.freeze(value)
  for (const inner of Object.values(value)) frozen(inner)
  return value
}
