"""The site of the documents in headless Chromium: on a phone and on a desk, light and dark, from a server and a folder.

`make interop` builds the site first, and keeps the screenshots in target/interop: FRAMESEAL_ARTEFACTS names the folder.
"""

import contextlib

import pytest
from aiohttp import web

from interop.browsers import CHROMIUM
from support.paths import ROOT
from support.web_server import serving_app

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: make interop")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make interop")

SITE = ROOT / "target/site"
PATIENCE = 60_000  # milliseconds; the limit is for a page that is broken, not a measurement
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}

# The pages with the widest tables, the longest lines of code, diagrams, and the longest signatures.
SHOWN = ["index", "security", "architecture", "assurance", "guide/keys", "formats/sframe", "project/benches/README"]
SHOWN += ["project/README", "reference/index", "reference/frameseal", "reference/frameseal._native"]

# Elements that reach over the edge of the page, unless an element around them scrolls.
OVER_THE_EDGE = """() => {
    const scrolls = element => ['auto', 'scroll', 'hidden'].includes(getComputedStyle(element).overflowX);
    const held = element => element && element !== document.body && (scrolls(element) || held(element.parentElement));
    return [...document.querySelectorAll('.main article *')].filter(element =>
        element.getBoundingClientRect().right > document.documentElement.clientWidth + 1
        && !element.closest('svg') && !held(element.parentElement) && !scrolls(element)
        && element.getBoundingClientRect().width > 1).map(element => element.outerHTML.slice(0, 100));
}"""
SCROLLING = """selector => [...document.querySelectorAll(selector)]
    .filter(element => element.scrollWidth > element.clientWidth + 1)
    .map(element => getComputedStyle(element).overflowX)"""

# The contrast of each visible text with its background, as WCAG 2 defines it. Elements with the least contrast first.
CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = part => part <= 0.03928 * 255 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const background = element => {
        for (; element; element = element.parentElement) {
            const colour = rgba(getComputedStyle(element).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255];
    };
    const found = new Map();
    for (const element of document.querySelectorAll('.main article *')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || element.closest('svg, .headerlink, .mermaid') || !element.getClientRects().length) continue;
        const [a, b] = [rgba(getComputedStyle(element).color), background(element)].map(luminance);
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const name = `${element.tagName.toLowerCase()}.${element.className}`;
        found.set(name, Math.min(contrast, found.get(name) ?? 99));
    }
    return [...found].sort((one, other) => one[1] - other[1]);
}"""
LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3, for text of any size


@pytest.fixture
async def served():
    assert (SITE / "index.html").is_file(), "make docs builds the site; make interop does it by itself"
    app = web.Application()
    app.router.add_static("/some/folder", SITE)
    async with serving_app(app) as address:
        yield f"http://{address}/some/folder"


@contextlib.asynccontextmanager
async def opened(browser, origin: str, viewport=DESK, scheme="light"):
    """Open a tab. At the end it must have had no error, and loaded nothing from elsewhere."""
    context = await browser.new_context(viewport=viewport, color_scheme=scheme)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    faults: list[str] = []
    # A browser fetches nothing from a folder. There the results of a search have no excerpts.
    refused = "Failed to fetch" if origin.startswith("file:") else None
    page.on("pageerror", lambda error: None if str(error) == refused else faults.append(f"{page.url}: {error}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith((origin, "data:")) else faults.append(f"loaded {request.url}"),
    )
    page.on("response", lambda answer: None if answer.status < 400 else faults.append(f"{answer.status}: {answer.url}"))
    yield page
    await context.close()
    assert faults == []


async def drawn(page) -> None:
    """Wait until the diagrams of a page are drawn."""
    await page.wait_for_function("""() => [...document.querySelectorAll('pre.mermaid')]
        .every(each => each.dataset.processed && each.querySelector('svg'))""")


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
async def test_no_page_is_wider_than_its_screen(served, browser, viewport):
    pages = sorted(path.relative_to(SITE) for path in SITE.rglob("*.html") if path.parts[len(SITE.parts)] != "rust")
    assert len(pages) > 60
    scrolling = 0
    async with opened(browser, served, viewport) as page:
        for name in pages:
            await page.goto(f"{served}/{name.as_posix()}")
            await drawn(page)
            wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert (name, wide, await page.evaluate(OVER_THE_EDGE)) == (name, False, [])
            inside = await page.evaluate(SCROLLING, ".highlight pre, .table-wrapper, pre.mermaid")
            assert set(inside) <= {"auto", "scroll"}, name
            scrolling += len(inside)
    assert viewport == DESK or scrolling > 20, "what is too wide for a phone scrolls inside itself"


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_from_its_background(served, browser, artefacts, viewport, scheme):
    """The pictures are for people: target/interop."""
    size = "phone" if viewport == PHONE else "desk"
    async with opened(browser, served, viewport, scheme) as page:
        for name in SHOWN:
            await page.goto(f"{served}/{name}.html")
            await drawn(page)
            picture = artefacts / f"site-{size}-{scheme}-{name.replace('/', '-')}.png"
            await page.screenshot(path=picture)
            faint = [each for each in await page.evaluate(CONTRAST) if each[1] < LEAST_CONTRAST]
            assert (name, faint) == (name, [])
        luminance = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance == "rgb(255, 255, 255)") is (scheme == "light")


async def test_a_phone_opens_the_menu_and_follows_it(served, browser, artefacts):
    async with opened(browser, served, PHONE) as page:
        await page.goto(f"{served}/index.html")
        link = page.locator(".sidebar-drawer").get_by_role("link", name="States", exact=True)
        await playwright.expect(link).not_to_be_in_viewport()
        await page.locator("label.nav-overlay-icon").click()
        await playwright.expect(link).to_be_in_viewport(timeout=PATIENCE)
        await page.wait_for_function("document.querySelector('.sidebar-drawer').getBoundingClientRect().left === 0")
        await page.screenshot(path=artefacts / "site-phone-menu.png")
        for door in ("I have a call", "I have an SDK", "I have frames of my own", "I have an archive"):
            assert await page.locator(".sidebar-tree .caption", has_text=door).count() == 1
        await link.click()
        await page.wait_for_url("**/guide/states.html")


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("by", ["server", "folder"])
async def test_the_search_leads_to_an_entry(served, browser, artefacts, viewport, by):
    origin = served if by == "server" else SITE.as_uri()
    async with opened(browser, origin, viewport) as page:
        await page.goto(f"{origin}/index.html")
        if viewport == PHONE:
            await page.locator("label.nav-overlay-icon").click()
        await page.get_by_placeholder("Search").fill("set_shared_key")
        await page.get_by_placeholder("Search").press("Enter")
        result = page.locator("#search-results ul.search a", has_text="KeyProvider.set_shared_key").first
        await result.wait_for()
        await page.screenshot(path=artefacts / f"site-{'phone' if viewport == PHONE else 'desk'}-search-{by}.png")
        await result.click()
        await page.wait_for_url("**/reference/frameseal.html*#frameseal.KeyProvider.set_shared_key")
        entry = page.locator('[id="frameseal.KeyProvider.set_shared_key"]')
        await playwright.expect(entry).to_be_in_viewport(timeout=PATIENCE)
        await playwright.expect(entry).to_contain_text("key_id: int")


async def test_a_name_in_a_page_leads_to_its_entry(served, browser):
    async with opened(browser, served) as page:
        await page.goto(f"{served}/security.html")
        await page.locator("article a", has_text="KeyProvider.set_key").first.click()
        await page.wait_for_url("**/reference/frameseal.html#frameseal.KeyProvider.set_key")


async def test_a_diagram_is_drawn_anew_for_another_theme(served, browser):
    async with opened(browser, served) as page:
        await page.goto(f"{served}/architecture.html")
        await drawn(page)
        colour = "getComputedStyle(document.querySelector('pre.mermaid .nodeLabel p, pre.mermaid .nodeLabel')).color"
        light = await page.evaluate(colour)
        await page.emulate_media(color_scheme="dark")
        await page.wait_for_function(
            f"before => document.querySelector('pre.mermaid svg') && {colour} !== before", arg=light
        )
        await drawn(page)


async def test_the_rust_reference_lies_beside_the_pages(served, browser):
    async with opened(browser, served) as page:
        await page.goto(f"{served}/reference/rust.html")
        await page.locator("article").get_by_role("link", name="crate frameseal").click()
        await page.wait_for_url("**/rust/frameseal/index.html")
        await playwright.expect(page.get_by_role("heading", name="Crate frameseal")).to_be_visible(timeout=PATIENCE)
