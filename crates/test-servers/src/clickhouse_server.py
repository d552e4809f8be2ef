"""Runs the servers that ClickHouse's library has: clickhouse_server.py LIBCHDB_SO CONFIG_FILE DATA_DIR HTTP_PORT TCP_PORT

ctypes instead of a few lines of Rust: calling a library takes `unsafe` there.
"""

import ctypes
import os
import sys

library, config, data, http_port, tcp_port = sys.argv[1:]
# The servers run as long as the last query does, which reads standard input. It never ends: nobody closes the other end.
reading, writing = os.pipe()
os.dup2(reading, 0)
chdb = ctypes.CDLL(library)
chdb.chdb_query_cmdline.restype = ctypes.c_void_p
chdb.chdb_query_cmdline.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
chdb.chdb_result_error.restype = ctypes.c_char_p
chdb.chdb_result_error.argtypes = [ctypes.c_void_p]
arguments = [
    "clickhouse",
    f"--config-file={config}",
    f"--path={data}",
    "--listen_host=127.0.0.1",
    f"--http_port={http_port}",
    f"--tcp_port={tcp_port}",
    "--query",
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; SELECT count() FROM file('stdin', LineAsString, 'line String')",
]
array = (ctypes.c_char_p * (len(arguments) + 1))(*[argument.encode() for argument in arguments], None)
result = chdb.chdb_query_cmdline(len(arguments), array)
sys.exit(chdb.chdb_result_error(result).decode() if chdb.chdb_result_error(result) else "the servers ended")
