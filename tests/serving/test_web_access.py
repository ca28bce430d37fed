"""The web page by keyboard, in the dark, on a phone, and for eyes that need contrast."""

import re

from pages import articles, choose_crops, upload
from playwright.sync_api import expect

from fer.data.emotions import EMOTIONS
from fer.serving.app import WEB

STYLE = WEB.joinpath("style.css").read_text()


def tab_to(page, selector):
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def outline(page, selector):
    return page.locator(selector).evaluate("element => getComputedStyle(element).outlineStyle")


def test_the_page_works_with_the_keyboard_alone(page, crop):
    page.on("filechooser", lambda _: None)  # the test selects the files itself
    tab_to(page, "input[name=detector]")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("Each image is taken as one face")).to_be_visible()
    assert outline(page, "input[value=none] + span") == "solid"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert outline(page, "#files + label") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([crop])
    expect(page.locator(".face")).to_have_count(1)
    tab_to(page, "#clear")
    page.keyboard.press("Enter")
    expect(articles(page)).to_have_count(0)


def test_a_dark_page_on_a_phone(open_page, site, crop):
    page = open_page(
        site,
        viewport={"width": 360, "height": 740},
        color_scheme="dark",
        reduced_motion="reduce",
    )
    choose_crops(page)
    upload(page, {**crop, "name": "a_name_that_is_much_longer_than_a_phone_is_wide_and_more.png"})
    expect(page.locator(".face")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    style = "getComputedStyle(document.querySelector('.fill')).transitionProperty"
    assert page.evaluate(style) == "none"
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(18, 19, 22)"


def luminance(color):
    """Relative luminance of a color as WCAG 2.2 defines it."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in channels
    ]
    return sum(
        weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def palettes():
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[:2]
    read = [dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in (light, dark)]
    colors = read[0] | read[1]
    for palette in (read[0], colors):
        yield {
            name: palette.get(value[6:-1], value) if value.startswith("var(") else value
            for name, value in palette.items()
        }


def test_every_text_has_enough_contrast():
    for palette in palettes():
        for text in ("ink", "soft", "alarm", *EMOTIONS):
            for ground in ("ground", "panel", "sunken"):
                assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
        for ground in ("ground", "panel"):
            assert contrast(palette["edge"], palette[ground]) >= 3
