"""The accuracy audit: who should have got what, worked out again from the raw rows and compared with what happened.

Plain Python, one contact at a time, written from the language's own page. It reads the workflow files itself and
shares no code with the compiler or the engine; where it meets a construct that it does not know, it says so.
"""
