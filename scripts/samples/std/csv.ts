type Row = Record<string, unknown>;

/** Rows as CSV, quoted where they have to be. */
export function stringify(rows: Row[], { columns }: { columns: string[]; headers?: boolean }): string {
  const cell = (value: unknown) => {
    const text = String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))];
  return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
}
