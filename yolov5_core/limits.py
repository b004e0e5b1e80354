"""The largest of everything that is read from outside: above it, a sentence instead of memory.

Each is checked before the memory is taken, and is several times what honest files need.
"""

# Pictures. One of MAX_PIXELS, decoded twice, takes 0.6 GB; above it, PIL warns of a bomb.
MAX_PIXELS = 89_478_485
MAX_SIDE = 65_535  # pixels, JPEG's own limit; at 640 pixels it leaves the other side 10 and more
MAX_PICTURE_BYTES = 400_000_000  # MAX_PIXELS without compression, four bytes each

# YOLO label files. A quarter of a million boxes take less than 10 MB, and no picture has so many.
MAX_LABEL_BYTES = 10_000_000
MAX_LABEL_ROWS = 100_000
MAX_LABEL_LINE = 1_000_000  # bytes; a polygon of 25,000 points

# COCO JSON. COCO's own training file has 0.45 GB, LVIS's 1.1 GB. Python needs up to 230 bytes for
# a list or object and 32 for a number: the numbers below keep a file of nothing but "[" to 5 GB.
MAX_COCO_BYTES = 1_250_000_000
MAX_COCO_LISTS = 20_000_000  # lists and objects; an annotation has about four
MAX_COCO_VALUES = 200_000_000

# Pascal VOC XML, the file of one picture.
MAX_VOC_BYTES = 10_000_000
MAX_VOC_DEPTH = 30  # elements within each other; the format itself needs five
MAX_VOC_ELEMENTS = 300_000  # 20,000 objects with all that programs write about one

# data.yaml, hyperparameters, model tables, settings. PyYAML reads 50,000 values in a few seconds.
MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 20  # lists and mappings within each other; ours need three
MAX_YAML_VALUES = 50_000
MAX_YAML_NUMBER = 100  # characters; reading 1:1:1:... of a megabyte as a number takes hours

# Lists of pictures.
MAX_LIST_BYTES = 500_000_000
MAX_LIST_LINES = 5_000_000

# Class names: the confusion matrix of 10,000 classes takes 0.8 GB.
MAX_CLASSES = 10_000
MAX_CLASS_NAME = 200  # characters

# Model tables: the largest public model has 33 rows, 12 repeats and 1280 channels.
MAX_LAYERS = 1000
MAX_REPEATS = 100
MAX_ARGUMENT = 16_384  # channels, kernel, stride ...
MAX_MULTIPLE = 100.0  # of depth and width

# Checkpoints. A resumable state of the largest model under Adam takes 3 GB. Of a pickle, it is the
# number of instructions that takes memory and time: 2 million need 0.2 GB and some seconds.
MAX_CHECKPOINT_BYTES = 8 * 2**30
MAX_PICKLE_BYTES = 16 * 2**20  # the largest public model needs below 1 MiB
MAX_PICKLE_STEPS = 2_000_000
MAX_PICKLE_COPIES = 100_000_000  # bytes made of what is there already; honest files: 2 million
MAX_ZIP_ENTRIES = 20_000  # the largest public model needs below 5,000
MAX_ZIP_DIRECTORY = 4_000_000  # bytes; 200 an entry

# Objects of a store that are read whole: records, reports, results.
MAX_RECORD_BYTES = 64_000_000  # JSON; run.json has 3 kB
MAX_ARRAYS_BYTES = 4_000_000_000  # of one .npz, unpacked: evaluations and what is known of a source
MAX_RESULTS_BYTES = 16_000_000  # 100,000 epochs

# Paths and URLs in settings and descriptions: what Linux itself allows.
MAX_PATH = 4096  # characters
