import time
import transformers
from scripts.zoo.specimen import examine
def one(name,folder):
    transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar()
    t=time.process_time(); folder.mkdir(parents=True,exist_ok=True)
    found=examine(name,folder)
    return found,time.process_time()-t

