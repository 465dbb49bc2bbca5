interface Options { maxAttempts?: number; minTimeout?: number; multiplier?: number }

/** The result of a function that may fail a few times. */
export async function retry<T>(f: () => Promise<T> | T, options: Options = {}): Promise<T> {
  const { maxAttempts = 5, minTimeout = 1000, multiplier = 2 } = options;
  for (let attempt = 1, wait = minTimeout;; attempt++, wait *= multiplier) {
    try {
      return await f();
    } catch (error) {
      if (attempt >= maxAttempts) throw error;
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}
