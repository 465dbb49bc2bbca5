// Opens PAGE in a browser and waits until it shows figures that it got from another origin.
import { chromium } from "playwright";

const browser = await chromium.launch();
const page = await browser.newPage();
const asked = [];
page.on("request", (request) => request.method() === "POST" && asked.push(new URL(request.url()).origin));
await page.goto(process.env.PAGE, { waitUntil: "domcontentloaded" });
await page.waitForFunction(() => /\d/.test(document.getElementById("tiles").textContent));
console.log(await page.locator("#tiles").innerText(), asked);
const others = asked.filter((origin) => origin !== new URL(process.env.PAGE).origin);
await browser.close();
process.exit(others.length > 0 ? 0 : 1);
