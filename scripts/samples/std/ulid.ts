let last = 0;

/** An id that sorts by the order in which it was made. */
export function monotonicUlid(): string {
  last = Math.max(last + 1, Date.now() * 1000);
  return last.toString(36).toUpperCase().padStart(26, "0");
}
