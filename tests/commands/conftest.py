from tests.speech.conftest import streaming_folder as streaming_folder
