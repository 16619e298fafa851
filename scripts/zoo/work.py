import gc
import os
import time

import transformers
from bitzones.api import analyzing, planning
from bitzones.run import session, runner

from scripts.zoo.specimen import examine


def one(name, folder):
    transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar()
    t=time.process_time(); folder.mkdir(parents=True,exist_ok=True)
    gc.freeze()
    fd=os.open(folder/'screen.txt',os.O_CREAT|os.O_WRONLY)
    os.dup2(fd,1); os.dup2(fd,2)
    found=examine(name,folder)
    return found,time.process_time()-t
