"""Files at addresses (s3://, gs://, hdfs://, file://, what else pyarrow knows), for jobs on several machines."""

from functools import cache
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from serving.images import is_image
from serving.offline import OfflineError


def read(address: str) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read.
        OfflineError: what the address begins with is nothing that pyarrow knows.
    """
    filesystem, path = _located(address)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def images_at(address: str) -> list[str]:
    """The addresses of the images in a folder and the folders in it, in order; or the address itself if it is a file's.

    Raises:
        OfflineError: there is nothing, or no image, or the place cannot be reached.
    """
    from pyarrow import fs

    filesystem, root = _located(address)
    try:
        info = filesystem.get_file_info(root)
        if info.is_file:
            return [address]
        files = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except OSError as error:
        raise OfflineError(f"{address} cannot be read: {error}") from None
    below = sorted(PurePosixPath(file.path).relative_to(root) for file in files if file.is_file)
    found = [f"{address.rstrip('/')}/{quote(str(path))}" for path in below if is_image(path)]
    if not found:
        raise OfflineError(f"{address} has no images; give a folder that has some")
    return found


def exists(address: str) -> bool:
    """Whether there is a file or a folder.

    Raises:
        OfflineError: that cannot be found out.
    """
    from pyarrow import fs

    return bool(_info(address).type != fs.FileType.NotFound)


def is_file(address: str) -> bool:
    """Whether there is a file.

    Raises:
        OfflineError: that cannot be found out.
    """
    return bool(_info(address).is_file)


def names(address: str) -> list[str]:
    """What is directly in a folder.

    Raises:
        OfflineError: it cannot be read.
    """
    from pyarrow import fs

    filesystem, path = _located(address)
    try:
        return [found.base_name for found in filesystem.get_file_info(fs.FileSelector(path))]
    except OSError as error:
        raise OfflineError(f"{address} cannot be read: {error}") from None


def delete_folder(address: str) -> None:
    """Delete a folder and all that is in it."""
    filesystem, path = _located(address)
    filesystem.delete_dir(path)


def replace_folder(source: str, target: str) -> None:
    """Move the files of a folder to another place of the same file system, in the place of what is there.

    File by file: stores of objects have no folders that could be renamed. Until it has ended, a reader of the target
    may find a part of it. What was there is deleted first, when all that is to take its place exists.

    Raises:
        OSError: that failed; what has not been moved is in the source.
    """
    if exists(target):
        delete_folder(target)
    filesystem, place = _located(target)
    _, origin = _located(source)
    filesystem.create_dir(place)
    for name in names(source):
        filesystem.move(f"{origin}/{name}", f"{place}/{name}")
    filesystem.delete_dir(origin)


def _info(address: str) -> Any:
    filesystem, path = _located(address)
    try:
        return filesystem.get_file_info(path)
    except OSError as error:
        raise OfflineError(f"{address} cannot be reached: {error}") from None


def _located(address: str) -> tuple[Any, str]:
    """The file system that an address is of, and the path in it."""
    parts = urlsplit(address)
    filesystem, root = _filesystem(f"{parts.scheme}://{parts.netloc}/")
    return filesystem, f"{root.rstrip('/')}/{unquote(parts.path).strip('/')}"


@cache
def _filesystem(address: str) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid, fs

    try:
        filesystem, root = fs.FileSystem.from_uri(address)
    except (ArrowInvalid, NotImplementedError, OSError) as error:
        raise OfflineError(f"{address} cannot be reached: {error}") from None
    return filesystem, root
