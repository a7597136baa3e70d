"""Images in a folder or a list file, with a class a subfolder, and label and depth maps in folders beside them."""

from taming_jax.data.channels import suffixes
from taming_jax.data.config import DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.map_folders import add_maps
from taming_jax.data.names import choose_classes
from taming_jax.data.walk import class_of, find_images, hold_out


def list_folder(config: DataConfig, split: str) -> Listing:
    """A folder or list file; there are classes only where every image of `path` lies in a subfolder."""
    kinds = suffixes(config.channels)
    root, names = find_images(config.path, config.root, kinds)
    if config.val_path:
        val_root, val_names = find_images(config.val_path, config.root, kinds)
        chosen_root, chosen = (root, names) if split == "train" else (val_root, val_names)
    else:
        val_names = []
        chosen_root, chosen = root, hold_out(config, names, split)
    classes = sorted({class_of(name) or "" for name in names})
    listing = Listing([], class_names=None if "" in classes else tuple(classes))
    if listing.class_names:
        listing.class_names = choose_classes(config.classes, listing.class_names)
        number: dict[str | None, int] = {name: i for i, name in enumerate(listing.class_names)}
        foreign = sorted({str(class_of(name)) for name in chosen} - set(classes))
        if foreign:
            raise ValueError(
                f"{config.val_path!r} has classes (subfolders) that {config.path!r} does not have: {foreign[:5]}; "
                f"known: {classes[:10]}{' ...' if len(classes) > 10 else ''}"
            )
        chosen = [name for name in chosen if class_of(name) in number]
        listing.labels = [number[class_of(name)] for name in chosen]
    elif config.classes:
        raise ValueError(
            f"`classes` is {config.classes!r}, but {config.path!r} has no classes: some of its images lie in no "
            "subfolder"
        )
    return add_maps(config, listing, chosen_root, chosen, maps=config.maps, every=(*names, *val_names))
