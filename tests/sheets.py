"""Tables of ``ui.sheet`` as a page test reads them."""

import re
from xml.etree import ElementTree


def sheets(page):
    """Return the page's tables by key, each a list of rows from column to text."""
    found = {}
    for block in page.get("html"):
        if match := re.search(r'class="sheet[^"]* sheet-([\w-]+)"', block.proto.body):
            rows = ElementTree.fromstring(block.proto.body).find("table/tbody")
            found[match[1]] = [{cell.get("data-label"): "".join(cell.itertext()) for cell in row} for row in rows]
    return found
