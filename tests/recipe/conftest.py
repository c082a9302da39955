import os

# verl decides on its platform at its first import, in this process and in those that the tests start.
os.environ["VERL_PLATFORM"] = "cpu"
