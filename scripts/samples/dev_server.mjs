// Serves the middlewares of a Vite plugin: node dev_server.mjs PLUGIN PORT
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [file, port] = process.argv.slice(2);
const { ignitePlugin } = await import(pathToFileURL(file));
const middlewares = [];
ignitePlugin().configureServer({ middlewares: { use: (path, serve) => middlewares.push({ path, serve }) } });
createServer((request, response) => {
  const left = middlewares.filter(({ path }) => request.url.split("?")[0] === path);
  const next = () => {
    const found = left.shift();
    if (found) return found.serve(request, response, next);
    response.writeHead(404).end();
  };
  next();
}).listen(Number(port), "127.0.0.1");
