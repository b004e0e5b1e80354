"""What data a user means: the layout and format of a data set, understood before any work starts.

YOLO folders and lists, COCO JSON and Pascal VOC XML, described by a data.yaml or found in a folder.
Only listings, lists and annotation files are read here, no picture.
"""

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import NamedTuple

from yolov5_core.coco import CocoImage, CocoSet, parse_coco
from yolov5_core.data_yaml import (
    DataSpec,
    is_image,
    no_images,
    read_data_yaml,
    read_lines,
    read_list,
    whole_path,
)
from yolov5_core.dataset import DataError
from yolov5_core.faults import Fault
from yolov5_core.files import FileInfo, Files, join, read_file, relative
from yolov5_core.index import SPLITS
from yolov5_core.label_places import RULES, YOLO, Format, stem, yolo_label_path
from yolov5_core.limits import MAX_COCO_BYTES, MAX_VOC_BYTES
from yolov5_core.voc import voc_names

_MISSING = FileInfo(0, "missing")
_ROBOFLOW_COCO = "_annotations.coco.json"
_PROBED = 20  # pictures looked for when a COCO file does not say where they are


class Item(NamedTuple):
    """One picture to prepare."""

    name: str  # below the data set's root
    split: int  # number in index.SPLITS
    image: str  # whole path or URL
    size: int  # bytes; 0 if it is not there
    stamp: str  # changes when picture or labels do
    format: Format
    truth: str  # label, XML or JSON file; empty: background
    annotations: CocoImage | None = None

    @property
    def label_place(self) -> str:
        """Where a YOLO label file would be."""
        return yolo_label_path(self.image)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """A data set as it was understood."""

    root: str
    names: tuple[str, ...]  # of class 0, 1 ...
    items: tuple[Item, ...]  # by split, then name
    categories: Mapping[str, Mapping[int, int]]  # JSON file: its category ids to our classes
    faults: tuple[Fault, ...]  # that belong to no picture
    understood: tuple[str, ...]  # in words, line by line


@dataclass(slots=True)
class _Found:
    """What was found so far."""

    files: Files
    root: str
    names: list[str]
    names_are_final: bool  # a data.yaml gives them
    items: list[Item] = field(default_factory=list)
    categories: dict[str, Mapping[int, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)
    folders: dict[str, dict[str, FileInfo]] = field(default_factory=dict)  # listed so far

    def info(self, path: str) -> FileInfo | None:
        """Size and stamp of a file, None if it is not there; lists each folder once."""
        folder, name = posixpath.split(path)
        return self.listed(folder).get(name)

    def listed(self, folder: str) -> dict[str, FileInfo]:
        """Files of a folder, listed once."""
        if folder not in self.folders:
            self.folders[folder] = self.files.folder(folder)
        return self.folders[folder]


def understand(
    data: str,
    files: Files,
    known_names: Sequence[str] = (),
    is_known: Callable[[Item], bool] = lambda _: False,
) -> Sources:
    """Finds out what a data set is.

    Args:
        data: A data.yaml, or a folder in one of the usual layouts.
        files: Where it is.
        known_names: Class names of an earlier preparation: where the annotations themselves name
            the classes, these keep their numbers and new names are added behind them.
        is_known: Whether an item was prepared before, so that its classes are in known_names.

    Raises:
        DataError: Nothing usable there, or a file that describes the whole set is broken.
    """
    data = whole_path(data)
    if files.is_folder(data):
        inside = files.folder(data)
        described = next((n for n in ("data.yaml", "data.yml") if n in inside), None)
        if described is None:
            spec, list_of_names = _find_layout(data, inside, files)
        else:
            spec, list_of_names = read_data_yaml(join(data, described), files), False
    else:
        spec, list_of_names = read_data_yaml(data, files), False
    found = _Found(files, spec.root, list(spec.names or known_names), bool(spec.names))
    for split in SPLITS:
        sources: tuple[str, ...] = getattr(spec, split)
        before = len(found.items)
        for source in sources:
            _add_source(found, split, source, list_of_names)
        if len(found.items) == before:
            raise no_images(sources)
        found.items[before:] = sorted(found.items[before:], key=itemgetter(0))  # by name
    if not found.names_are_final:
        _learn_names(found, is_known)
    if not found.names:
        raise DataError(f"{data}: no classes: neither names nor a single labelled object")
    return _finish(found)


def _finish(found: _Found) -> Sources:
    items: list[Item] = []
    last_name, last_split = "", -1
    for item in found.items:
        if not item.name.isascii() and (name := _written(item.name)) != item.name:
            where, reason = _written(item.image), "its name is no UTF-8"
            found.faults.append(Fault(kind="image-name", image=name, where=where, reason=reason))
        elif item.name == last_name and item.split == last_split:
            reason = f"named twice in {SPLITS[item.split]}"
            found.faults.append(
                Fault(
                    kind="image-listed-twice",
                    image=item.name,
                    where=item.image,
                    reason=reason,
                )
            )
        else:
            items.append(item)
            last_name, last_split = item.name, item.split
    classes = ", ".join(f"{i} {name}" for i, name in enumerate(found.names))
    return Sources(
        root=found.root,
        names=tuple(found.names),
        items=tuple(items),
        categories=found.categories,
        faults=tuple(found.faults),
        understood=(f"data set in {found.root}", f"classes: {classes}", *found.understood),
    )


def _written(name: str) -> str:
    """A file's name as it can be written down; bytes that are no UTF-8 come as half characters."""
    return name.encode("utf-8", "backslashreplace").decode()


def _find_layout(folder: str, inside: Iterable[str], files: Files) -> tuple[DataSpec, bool]:
    """The splits of a folder without data.yaml, and whether they are Pascal lists of stems."""

    def spec(train: str, val: str) -> DataSpec:
        splits = {"train": (join(folder, train),), "val": (join(folder, val),)}
        return DataSpec(root=folder, names=(), test=(), **splits)

    annotations = sorted(n for n in files.folder(join(folder, "annotations")) if n[-5:] == ".json")
    for name in annotations:
        other = name.replace("train", "val")
        if "instances" in name and other != name and other in annotations:
            return spec(f"annotations/{name}", f"annotations/{other}"), False
    lists = files.folder(join(folder, "ImageSets/Main"))
    if "val.txt" in lists and "train.txt" in lists:
        return spec("ImageSets/Main/train.txt", "ImageSets/Main/val.txt"), True
    for val in ("valid", "val"):
        halves = [files.folder(join(folder, half)) for half in ("train", val)]
        if all(_ROBOFLOW_COCO in half for half in halves):
            return spec(f"train/{_ROBOFLOW_COCO}", f"{val}/{_ROBOFLOW_COCO}"), False
        if all(any(n.endswith(".xml") for n in half) for half in halves):
            return spec("train", val), False
    raise DataError(
        f"{folder}: no data.yaml, and none of the layouts known without one: "
        "annotations/instances_train*.json and instances_val*.json (COCO), train and valid with "
        f"{_ROBOFLOW_COCO}, JPEGImages with ImageSets/Main/train.txt and val.txt (Pascal VOC), "
        f"train and valid with XML files; found: {', '.join(sorted(inside)[:10]) or 'no files'}"
    )


def _add_source(found: _Found, split: str, source: str, list_of_stems: bool) -> None:
    files = found.files
    if source.endswith(".json"):
        _add_coco(found, split, source)
    elif files.is_folder(source):
        beside = join(source, _ROBOFLOW_COCO)
        if files.is_file(beside):
            _add_coco(found, split, beside)
            return
        tree = files.tree(source)
        images = {path: info for path, info in tree.items() if is_image(path)}
        _add_labelled(found, split, source, images)
    elif list_of_stems:
        _add_labelled(found, split, source, _voc_images(found, source))
    else:
        paths = [path for path in read_list(source, files) if is_image(path)]
        images = {path: found.info(path) or _MISSING for path in paths}
        again = len(paths) - len(images)
        _add_labelled(found, split, source, images)
        if again:
            reason = f"{again} lines name a picture that another line named"
            found.faults.append(
                Fault(kind="image-listed-twice", image="", where=source, reason=reason)
            )


def _voc_images(found: _Found, source: str) -> dict[str, FileInfo]:
    """The pictures of an ImageSets/Main list, whose lines are stems."""
    folder = join(found.root, "JPEGImages")
    by_stem = {posixpath.splitext(name)[0]: name for name in found.files.folder(folder)}
    stems = [line.split()[0] for line in read_lines(source, found.files)]
    paths = [join(folder, by_stem.get(stem, f"{stem}.jpg")) for stem in stems]
    return {path: found.info(path) or _MISSING for path in paths}


def _add_labelled(found: _Found, split: str, source: str, images: Mapping[str, FileInfo]) -> None:
    """Pictures with a label file each, YOLO or VOC."""
    probed = list(images)[:_PROBED]
    rules = (r for r in RULES if any(found.info(r.path(path)) for path in probed))
    rule = next(rules, YOLO)
    number, labelled = SPLITS.index(split), 0
    wanted: dict[str, set[str]] = {}  # label files by folder
    prefix, here = f"{found.root.rstrip('/')}/", ""
    for path, info in images.items():
        folder, _, name = path.rpartition("/")
        if folder != here or not wanted:  # mostly the same one again
            here, labels = folder, rule.folder(folder)
            files, names = found.listed(labels), wanted.setdefault(labels, set())
        label = f"{stem(name)}{rule.suffix}"
        is_shared = label in names
        names.add(label)
        stamp, truth = f"{info.size} {info.stamp}", ""
        if (label_info := files.get(label)) is not None:
            labelled += 1
            stamp += f" {label_info.size} {label_info.stamp}"
            truth = f"{labels}/{label}"
            if is_shared:
                reason = "two pictures of this name have this one label file"
                fault = Fault(kind="label-shared", image="", where=_written(truth), reason=reason)
                found.faults.append(fault)
        item = Item(path.removeprefix(prefix), number, path, info.size, stamp, rule.format, truth)
        found.items.append(item)
    if found.files.is_folder(source):  # a list may leave pictures out on purpose
        _add_orphans(found, wanted, rule.suffix)
    found.understood.append(
        f"{split}: {len(images)} pictures in {relative(found.root, source)}, "
        f"{labelled} of them with a {rule.format} label file"
    )


def _add_orphans(found: _Found, wanted: Mapping[str, set[str]], suffix: str) -> None:
    """Remarks on label files without a picture."""
    for folder, names in sorted(wanted.items()):
        for name in sorted(found.listed(folder).keys() - names):
            if name.endswith(suffix) and name != "classes.txt":
                where = _written(f"{folder}/{name}")
                reason = "a label file without a picture"
                fault = Fault(kind="label-orphan", image="", where=where, reason=reason)
                found.faults.append(fault)


def _add_coco(found: _Found, split: str, source: str) -> None:
    try:
        coco = parse_coco(read_file(found.files, source, MAX_COCO_BYTES), source)
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error}") from error
    found.categories[source] = _class_of(found, coco, source)
    folder = _coco_folder(found, coco, source)
    number = SPLITS.index(split)
    listed = {join(folder, fault.image) for fault in coco.faults if fault.image}
    for fault in coco.faults:  # named as items are
        name = relative(found.root, join(folder, fault.image)) if fault.image else ""
        found.faults.append(replace(fault, image=name))
    for image in coco.images:
        path = join(folder, image.file_name)
        info = found.info(path) or _MISSING
        listed.add(path)
        text = json.dumps([image.width, image.height, image.annotations], sort_keys=True)
        mapping = sorted(found.categories[source].items())
        annotations = hashlib.sha256(f"{text}{mapping}".encode()).hexdigest()[:24]
        stamp = f"{info.size} {info.stamp} {annotations}"
        name = relative(found.root, path)
        found.items.append(Item(name, number, path, info.size, stamp, "COCO", source, image))
    for parent in sorted({posixpath.dirname(path) for path in listed}):
        for name in sorted(found.folders.get(parent, ())):
            path = f"{parent}/{name}"
            if is_image(path) and path not in listed:
                reason = f"not among the images of {source}"
                where = _written(path)
                fault = Fault(kind="coco-unlisted", image=where, where=where, reason=reason)
                found.faults.append(fault)
    mapped = ", ".join(f"{i} -> {c}" for i, c in sorted(found.categories[source].items()))
    found.understood.append(
        f"{split}: {len(coco.images)} pictures of COCO file {relative(found.root, source)}, in "
        f"{relative(found.root, folder)}; category id -> class: {mapped}"
    )


def _class_of(found: _Found, coco: CocoSet, source: str) -> dict[int, int]:
    """Category ids to classes, by name."""
    unknown = [name for _, name in coco.categories if name not in found.names]
    if unknown and found.names_are_final:
        raise DataError(
            f"{source}: categories that names does not have: {', '.join(unknown)}; add them to "
            "names, or remove names to take them from the file"
        )
    found.names += unknown
    return {number: found.names.index(name) for number, name in coco.categories}


def _coco_folder(found: _Found, coco: CocoSet, source: str) -> str:
    """The folder its file names are seen from: where most of the first ones are."""
    here = posixpath.dirname(source)
    stem = posixpath.splitext(posixpath.basename(source))[0].removeprefix("instances_")
    candidates = [here, join(here, "images"), found.root, join(found.root, "images")]
    candidates += [join(found.root, stem), join(found.root, f"images/{stem}")]
    candidates += [join(here, f"../{stem}"), join(here, f"../images/{stem}"), join(here, "..")]

    def hits(folder: str) -> int:
        probed = coco.images[:_PROBED]
        return sum(found.info(join(folder, image.file_name)) is not None for image in probed)

    return max(dict.fromkeys(candidates), key=hits)


def _learn_names(found: _Found, is_known: Callable[[Item], bool]) -> None:
    """Adds the class names that XML files use and no data.yaml gives."""
    unread = [i.truth for i in found.items if i.format == "VOC" and i.truth and not is_known(i)]
    new: set[str] = set()
    for start in range(0, len(unread), 256):
        paths = unread[start : start + 256]
        for path, data in zip(paths, found.files.read_many(paths, MAX_VOC_BYTES), strict=True):
            new |= voc_names(data, path) if isinstance(data, bytes) else set()
    found.names += sorted(new - set(found.names))
