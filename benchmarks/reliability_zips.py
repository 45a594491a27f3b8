"""Edits of zip archives: fields of their headers, and members out of order, twice, renamed, compressed or gone."""

import io
import random
import warnings
import zipfile

from benchmarks.reliability_edits import EDITS, NUMBERS

__all__ = ["field_edit", "member_edit", "members", "packed"]

# Where the fields of the two headers and of the end are, and how wide.
LOCAL = (b"PK\3\4", ((4, 2), (6, 2), (8, 2), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)))
CENTRAL_FIELDS = (4, 6, 8, 10, 12, 14, 28, 30, 32, 34, 36)
CENTRAL = (b"PK\1\2", (*((place, 2) for place in CENTRAL_FIELDS), (16, 4), (20, 4), (24, 4), (38, 4), (42, 4)))
END = (b"PK\5\6", ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)))
END_64 = (b"PK\6\6", ((4, 8), (12, 2), (14, 2), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)))
LOCATOR = (b"PK\6\7", ((4, 4), (8, 8), (16, 4)))
RENAMED = ("{root}/data.pkl", "{root}/../data.pkl", "/{name}", "{name}\0", "other/{name}", "{name}/", "{root}/data/00")
MORE = ("{root}/code/x.py", "{root}/constants.pkl", "{root}/.data/version", "{root}/archive_format", "{root}/data/9")

Members = list[tuple[str, bytes]]


def members(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def packed(content: Members, kinds: tuple[int, ...] = ()) -> bytes:
    """An archive with right checksums, whatever stands in it; `kinds` are the compressions of the first members."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        # Two members of one name are meant.
        warnings.simplefilter("ignore")
        for number, (name, data) in enumerate(content):
            # With its time left out, as torch does, an archive is the same each time.
            entry = zipfile.ZipInfo(name)
            archive.writestr(entry, data, kinds[number] if number < len(kinds) else zipfile.ZIP_STORED)
    return file.getvalue()


def field_edit(data: bytes, draw: random.Random) -> bytes:
    """One to three fields of the headers, with odd numbers in them."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        magic, fields = draw.choice([part for part in (LOCAL, CENTRAL, END, END_64, LOCATOR) if part[0] in data])
        places = [place for place in range(len(data)) if data.startswith(magic, place)]
        offset, width = draw.choice(fields)
        place = draw.choice(places) + offset
        old = int.from_bytes(data[place : place + width], "little")
        near = (old + 1, old - 1, old * 2, old ^ 1 << draw.randrange(8 * width))
        new = draw.choice((*NUMBERS, *near)) % (1 << 8 * width)
        data = data[:place] + new.to_bytes(width, "little") + data[place + width :]
    return data


def member_edit(data: bytes, draw: random.Random) -> bytes:
    """Members moved, repeated, renamed, changed, compressed, added or left out; checksums are right."""
    content = members(data)
    root = content[0][0].split("/")[0]
    kinds: tuple[int, ...] = ()
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place, way = draw.randrange(len(content)), draw.randrange(8)
        name, inside = content[place]
        if way == 0:
            draw.shuffle(content)
        elif way == 1:
            content.insert(draw.randrange(len(content) + 1), (name, draw.choice((inside, b"", inside[::-1]))))
        elif way == 2:
            content[place] = (draw.choice(RENAMED).format(root=root, name=name), inside)
        elif way == 3:
            choices = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            kinds = tuple(draw.choice(choices) for _ in content)
        elif way == 4 and len(content) > 1:
            del content[place]
        elif way == 5:
            content.append((draw.choice(MORE).format(root=root), draw.choice((b"", b"1", inside))))
        elif way == 6:
            other = draw.randrange(len(content))
            content[place], content[other] = (name, content[other][1]), (content[other][0], inside)
        elif inside:
            content[place] = (name, draw.choice(list(EDITS.values()))(inside, draw))
    found = packed(content, kinds)
    return field_edit(found, draw) if draw.random() < 0.2 else found
