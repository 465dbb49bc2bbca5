// What `import * as store from "ignite/store"` is: values by their keys, in the memory of a replica.
//
// All calls of the replica see the same values, other replicas have their own, and all of it goes with
// the replica: a cache, not a database.

const values = new Map<string, unknown>();

/** The value of a key; undefined when it has none. */
export function get<T = unknown>(key: string): T | undefined {
  return values.get(key) as T | undefined;
}

/** Keeps a value, in place of what the key had. */
export function set(key: string, value: unknown): void {
  values.set(key, value);
}

/** Whether a key has a value. */
export function has(key: string): boolean {
  return values.has(key);
}

/** Drops a value; whether there was one. */
export function remove(key: string): boolean {
  return values.delete(key);
}

/** The keys that have a value. */
export function keys(): string[] {
  return [...values.keys()];
}

/** Drops all values. */
export function clear(): void {
  values.clear();
}

export { remove as delete };

export default { get, set, has, delete: remove, remove, keys, clear };
