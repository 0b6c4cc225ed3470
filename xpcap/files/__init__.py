"""Files of any kind, read with limits and written whole or not at all. Open read_write.py first.

json_text.py, safetensors_file.py and onnx_file.py have the formats; growing_tables.py has tables
that grow line by line, and file_types.py recognises types of files by their first bytes.
"""
