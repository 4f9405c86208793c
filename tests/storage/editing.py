"""Edit files as somebody could who means harm."""

import hashlib
import json


def read_parts(path):
    """The header of a file, and its bytes after it."""
    data = path.read_bytes()
    first = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:first]), data[first:]


def write_parts(path, header, body):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def sign(metadata):
    """The checksum that the header of an edited file would have to have."""
    names = ("format", "format_version", "package_version", "tree")
    text = json.dumps([metadata[name] for name in names])
    metadata["sha256"] = hashlib.sha256(text.encode()).hexdigest()


def edit(path, change):
    """Edit the tree of a file, and sign it anew."""
    header, body = read_parts(path)
    metadata = header["__metadata__"]
    document = json.loads(metadata["tree"])
    change(document)
    metadata["tree"] = json.dumps(document)
    sign(metadata)
    write_parts(path, header, body)
