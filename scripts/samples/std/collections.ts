/** The sum of what a function says of each item. */
export function sumOf<T>(items: Iterable<T>, f: (item: T) => number): number {
  let sum = 0;
  for (const item of items) sum += f(item);
  return sum;
}
