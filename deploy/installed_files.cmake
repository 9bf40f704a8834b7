# Of an installation below `to`: what is made from the program itself (`omni_program`, in the build folder) and for the
# place where it will lie, CMAKE_INSTALL_PREFIX. Run by cmake --install.
set(from ${CMAKE_CURRENT_LIST_DIR})
set(BINDIR ${CMAKE_INSTALL_PREFIX}/bin)
set(SYSCONFDIR ${CMAKE_INSTALL_PREFIX}/etc)
set(etc ${to}/etc)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(SYSCONFDIR /etc)
  set(etc $ENV{DESTDIR}/etc)
endif()

file(READ ${from}/systemd/hardening.conf HARDENING)
foreach(unit omni omni@)
  configure_file(${from}/systemd/${unit}.service.in ${to}/lib/systemd/system/${unit}.service @ONLY)
endforeach()
configure_file(${from}/omni.conf ${etc}/omni/omni.conf COPYONLY)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
run(python3 -B ${from}/../scripts/lib/man_pages.py ${omni_program} ${to}/share/man/man1)
file(GLOB pages ${to}/share/man/man1/*.1)
run(gzip -9nf ${pages})
file(MAKE_DIRECTORY ${to}/share/bash-completion/completions ${to}/share/zsh/vendor-completions)
execute_process(COMMAND ${omni_program} completion bash OUTPUT_FILE ${to}/share/bash-completion/completions/omni
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${omni_program} completion zsh OUTPUT_FILE ${to}/share/zsh/vendor-completions/_omni
                COMMAND_ERROR_IS_FATAL ANY)
